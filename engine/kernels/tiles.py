"""Tiling of matrix products by shape and number of rows, from a table measured by `engine.bench.products`.

The bits of a row must not depend on the other rows. They are independent of the tiling, except for the number of
split-K parts and, on Hopper, the kind of tensor-core instruction, which changes at tiles of 64 weight rows. Both are
therefore the same for all row blocks of a shape. A single row is computed without tensor cores.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

ROW_BLOCKS = (16, 32, 64)
"""Possible numbers of rows per program, if there is more than one row."""
TABLE = Path(__file__).with_name("tiles.csv")


@dataclass(frozen=True, slots=True, order=True)
class Product:
    """A product and its row block, 1 for a single row. `kind`: plain, gated, or added to the residual stream."""

    kind: str
    outputs: int
    inputs: int
    rows: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """A program processes `outputs` weight rows and `depth` inputs at a time, prefetching over `stages` stages.

    A single row takes all its inputs at once, and each gate row together with its up row. `parts` is the number of
    split-K parts, each summed by separate programs.
    """

    outputs: int
    depth: int
    warps: int
    stages: int = 1
    parts: int = 1

    def within(self, shared_bytes: int, rows: int, item_bytes: int) -> Tiling:
        """Return this tiling reduced to fit into shared memory, which does not change any bits of the result."""
        depth, width = self.depth, (self.outputs + rows) * item_bytes
        while width * depth > shared_bytes:
            depth //= 2
        return replace(self, depth=depth, stages=min(self.stages, shared_bytes // (width * depth)))


def row_block(rows: int) -> int:
    """Return the smallest block that holds this many rows, or the largest."""
    return next((block for block in (1, *ROW_BLOCKS) if block >= rows), ROW_BLOCKS[-1])


def find_tiling(product: Product) -> Tiling:
    """Return the measured tiling, or a default that suits most shapes."""
    return MEASURED.get(product) or _usual(product)


def _usual(product: Product) -> Tiling:
    if product.rows > 1:
        return Tiling(64, 128, 4, 6, parts=4 if product.kind == "added" else 1)
    depth = 1 << (product.inputs - 1).bit_length()
    return Tiling(max(1, 16384 // depth // (2 if product.kind == "gated" else 1)), depth, 8 if depth > 4096 else 4)


def read(lines: Iterable[str]) -> dict[Product, Tiling]:
    """Read the tilings of a table; lines that start with # are comments on where it was measured."""
    rows = csv.reader(line for line in lines if not line.startswith("#"))
    numbered = ((kind, [int(number) for number in numbers]) for kind, *numbers in rows)
    return {Product(kind, *numbers[:3]): Tiling(*numbers[3:]) for kind, numbers in numbered}


def lines_of(tilings: Mapping[Product, Tiling]) -> Iterator[str]:
    """Yield a table's lines: the fields of a product, then those of its tiling."""
    for product, tiling in sorted(tilings.items()):
        yield ",".join(map(str, (*astuple(product), *astuple(tiling))))


MEASURED: Mapping[Product, Tiling] = read(TABLE.read_text().splitlines())
