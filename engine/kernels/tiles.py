"""How a matrix product is cut into programs: by its shape and its rows, from a table that `engine.bench.products` made.

A row's bits must not depend on the rows beside it. They do not depend on the tiling but for the parts that a sum is
made of and, on Hopper, the kind of tensor-core instruction, which is another from 64 rows of the weight on. So both are
the same for all row blocks of a shape. One row alone is computed without tensor cores.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

ROW_BLOCKS = (16, 32, 64)
"""Of how many rows one program computes its outputs where there are several."""
TABLE = Path(__file__).with_name("tiles.csv")


@dataclass(frozen=True, slots=True, order=True)
class Product:
    """A product and its row block, 1 for one row. `kind`: plain, gated, or added to the residual stream."""

    kind: str
    outputs: int
    inputs: int
    rows: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """A program takes `outputs` rows of the weight and `depth` inputs at a time, `stages` of which are being loaded.

    One row alone takes all its inputs at once, and a gate with what it gates. `parts`: into how many the inputs are
    cut, each summed by programs of its own.
    """

    outputs: int
    depth: int
    warps: int
    stages: int = 1
    parts: int = 1

    def within(self, shared_bytes: int, rows: int, item_bytes: int) -> Tiling:
        """The same with as much in flight as shared memory has room for, which changes no bits."""
        depth, width = self.depth, (self.outputs + rows) * item_bytes
        while width * depth > shared_bytes:
            depth //= 2
        return replace(self, depth=depth, stages=min(self.stages, shared_bytes // (width * depth)))


def row_block(rows: int) -> int:
    """Return the smallest block that holds this many rows, or the largest."""
    return next((block for block in (1, *ROW_BLOCKS) if block >= rows), ROW_BLOCKS[-1])


def find_tiling(product: Product) -> Tiling:
    """The measured tiling, or one that suits most shapes."""
    return MEASURED.get(product) or _usual(product)


def _usual(product: Product) -> Tiling:
    if product.rows > 1:
        return Tiling(64, 128, 4, 6, parts=4 if product.kind == "added" else 1)
    depth = 1 << (product.inputs - 1).bit_length()
    return Tiling(max(1, 16384 // depth // (2 if product.kind == "gated" else 1)), depth, 8 if depth > 4096 else 4)


def read(lines: Iterable[str]) -> dict[Product, Tiling]:
    """The tilings of a table; a line that begins with # names where it was measured."""
    rows = csv.reader(line for line in lines if not line.startswith("#"))
    numbered = ((kind, [int(number) for number in numbers]) for kind, *numbers in rows)
    return {Product(kind, *numbers[:3]): Tiling(*numbers[3:]) for kind, numbers in numbered}


def lines_of(tilings: Mapping[Product, Tiling]) -> Iterator[str]:
    """A table's lines: the fields of a product, then those of its tiling."""
    for product, tiling in sorted(tilings.items()):
        yield ",".join(map(str, (*astuple(product), *astuple(tiling))))


MEASURED: Mapping[Product, Tiling] = read(TABLE.read_text().splitlines())
