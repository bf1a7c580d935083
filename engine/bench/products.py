"""The fastest tiling of every matrix product of the models' layers, for a few rows and for many.

python -m engine.bench.products > tiles.csv && mv tiles.csv engine/kernels/tiles.csv

Each product is timed with the norm before it, or with the one that adds its parts, over more weights than a cache
holds. Over the row blocks of a shape the parts and the kind of tensor-core instruction are the same, for a row's bits
depend on them; within that each row block gets the tiling that takes the least time.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from ..kernels.launch import Launch, next_power_of_2
from ..kernels.linear import Linear, Norm
from ..kernels.precompile import compile_ahead
from ..kernels.tiles import ROW_BLOCKS, Product, Tiling, lines_of

SHAPES = (
    # the talker of 1.7B, its head and the projection that follows it
    ("plain", 4096, 2048), ("added", 2048, 2048), ("gated", 6144, 2048), ("added", 2048, 6144),
    ("plain", 3072, 2048), ("plain", 1024, 2048),
    # the code predictor and its heads, the talker of 0.6B and its head
    ("plain", 4096, 1024), ("added", 1024, 2048), ("gated", 3072, 1024), ("added", 1024, 3072),
    ("plain", 2048, 1024), ("plain", 3072, 1024),
)  # fmt: skip
TILES = (
    (16, 256, 2, 4), (32, 128, 4, 4), (64, 64, 4, 6), (64, 64, 4, 8), (64, 128, 4, 3), (64, 128, 4, 4), (64, 128, 4, 6),
    (64, 128, 4, 8), (64, 256, 4, 3), (64, 256, 4, 4), (128, 64, 4, 5), (128, 64, 4, 8), (128, 128, 4, 4),
    (128, 128, 8, 3),
)  # fmt: skip
PARTS = (1, 2, 4, 8)
PROGRAMS = range(32, 1025)
WEIGHT_BYTES = 256 << 20
"""Several times what any GPU's cache holds."""
MEASURED_ROWS = {1: 1, 16: 8, 32: 32, 64: 64}
REPEATS = 11


@dataclass(frozen=True, slots=True)
class Trial:
    """A tiling of a product, and how long it takes."""

    product: Product
    tiling: Tiling
    us: float

    @property
    def order(self) -> tuple[int, bool]:
        """What a row's bits depend on: the parts of its sums, and whether Hopper multiplies by wgmma."""
        return self.tiling.parts, self.tiling.outputs >= 64


def main() -> None:
    launch = Launch.on(torch.device("cuda"))
    products = [Product(*shape, rows) for shape in SHAPES for rows in (1, *ROW_BLOCKS)]
    plans = [(product, tiling) for product in products for tiling in tilings(product, launch)]
    compile_ahead(chain(product, tiling, launch, weights=1) for product, tiling in plans)
    trials = [Trial(product, tiling, microseconds(product, tiling, launch)) for product, tiling in plans]
    for trial in trials:
        print(f"{trial.us:.2f} us", trial.product, trial.tiling, file=sys.stderr)
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    best = {trial.product: trial.tiling for trial in chosen(trials)}
    print(*lines_of(best), sep="\n")


def tilings(product: Product, launch: Launch) -> Iterator[Tiling]:
    """Those worth trying: whole tiles, within shared memory, and neither few programs nor many."""
    for tiling in _of_one_row(product) if product.rows == 1 else _of_several(product):
        weights = product.outputs * (1 + (product.kind == "gated"))
        programs = weights // tiling.outputs * tiling.parts
        whole = weights % tiling.outputs == product.inputs % (tiling.parts * tiling.depth) == 0
        fits = tiling == tiling.within(launch.shared_bytes, product.rows, 2)
        if product.rows == 1 or (whole and fits and programs in PROGRAMS):
            yield tiling


def _of_one_row(product: Product) -> Iterator[Tiling]:
    """All inputs at a time, in registers: 32 to 128 weights a thread."""
    depth, matrices = next_power_of_2(product.inputs), 1 + (product.kind == "gated")
    for warps in (2, 4, 8):
        for held in (32, 64, 128):
            outputs = 32 * warps * held // depth // matrices
            if outputs:
                yield Tiling(outputs, depth, warps)


def _of_several(product: Product) -> Iterator[Tiling]:
    for tile in TILES:
        for parts in PARTS if product.kind == "added" else (1,):
            yield replace(Tiling(*tile), parts=parts)


def chain(product: Product, tiling: Tiling, launch: Launch, weights: int) -> Callable[[], object]:
    """Multiply by each of several matrices, one after the other."""
    rows, gated = MEASURED_ROWS[product.rows], product.kind == "gated"
    x, stream = _random(rows, product.inputs), _random(rows, product.outputs)
    after = Norm(torch.ones_like(stream[0]), 1e-6)
    before = None if product.kind == "added" else Norm(torch.ones_like(x[0]), 1e-6)
    matrices = (_random(product.outputs * (1 + gated), product.inputs) for _ in range(weights))
    every = [Linear(matrix, launch, before, gated=gated, tiling=tiling) for matrix in matrices]

    def call() -> None:
        for linear in every:
            if before:
                linear(x, stream)
            elif (parts := linear.add(x, stream)) is not None:
                after(stream, parts, launch)

    return call


def microseconds(product: Product, tiling: Tiling, launch: Launch) -> float:
    """Median of a replayed graph, for one product."""
    weights = -(-WEIGHT_BYTES // (2 * product.outputs * product.inputs * (1 + (product.kind == "gated"))))
    call = chain(product, tiling, launch, weights)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return statistics.median(_replayed_ms(graph) for _ in range(REPEATS)) * 1000 / weights


def _replayed_ms(graph: torch.cuda.CUDAGraph) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    graph.replay()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended))


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


def chosen(trials: list[Trial]) -> Iterator[Trial]:
    """The best trial of every product, of one order for all row blocks of a shape."""
    shapes: defaultdict[tuple[str, int, int], list[Trial]] = defaultdict(list)
    for trial in trials:
        shapes[trial.product.kind, trial.product.outputs, trial.product.inputs].append(trial)
    for every in shapes.values():
        yield min((trial for trial in every if trial.product.rows == 1), key=lambda trial: trial.us)
        wide = [trial for trial in every if trial.product.rows > 1]
        orders = [_best_of([t for t in wide if t.order == order]) for order in {t.order for t in wide}]
        yield from min((o for o in orders if len(o) == len(ROW_BLOCKS)), key=lambda best: sum(t.us for t in best))


def _best_of(trials: list[Trial]) -> list[Trial]:
    """The fastest for each row block."""
    best: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.us):
        best.setdefault(trial.product.rows, trial)
    return list(best.values())


if __name__ == "__main__":
    main()
