"""Matrix products in Triton's interpreter, without a GPU: whatever their tiling, they are torch's."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn import functional as F

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
pytest.importorskip("triton")

from engine.kernels.launch import Launch
from engine.kernels.linear import Linear, Norm
from engine.kernels.tiles import MEASURED, ROW_BLOCKS, Product, Tiling, find_tiling, lines_of, read, row_block

pytestmark = pytest.mark.kernels
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="tests/gpu has the compiled kernels")
LAUNCH = Launch(early=False)
ONE, SEVERAL = Tiling(4, 64, 4), Tiling(16, 16, 4, 4)
EXACT = 1e-5


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@interpreted
@pytest.mark.parametrize(("rows", "tiling"), [(1, ONE), (2, SEVERAL), (20, SEVERAL)])
@pytest.mark.parametrize("inputs", [64, 40])
@pytest.mark.parametrize("outputs", [32, 10])
def test_linear_kernel_equals_torch(rows: int, tiling: Tiling, inputs: int, outputs: int) -> None:
    x, weight, bias = random(rows, inputs), random(outputs, inputs), random(outputs)
    norm = Norm(random(inputs), 1e-6)
    made = Linear(weight, LAUNCH, norm, bias, tiling=tiling)(x, torch.empty(rows, outputs))
    expected = F.linear(F.rms_norm(x, (inputs,), norm.gain, norm.eps), weight, bias)
    assert (made - expected).abs().max() < EXACT * expected.abs().max()


@interpreted
@pytest.mark.parametrize(("rows", "tiling"), [(1, ONE), (2, SEVERAL), (20, SEVERAL)])
@pytest.mark.parametrize("inputs", [64, 40])
@pytest.mark.parametrize("outputs", [32, 10])
def test_gated_linear_kernel_equals_torch(rows: int, tiling: Tiling, inputs: int, outputs: int) -> None:
    x, weight = random(rows, inputs), random(2 * outputs, inputs)
    made = Linear(weight, LAUNCH, gated=True, tiling=tiling)(x, torch.empty(rows, outputs))
    gate, up = F.linear(x, weight).chunk(2, -1)
    expected = F.silu(gate) * up
    assert (made - expected).abs().max() < EXACT * expected.abs().max()


@interpreted
@pytest.mark.parametrize("parts", [1, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("inputs", [64, 40])
def test_norm_kernel_adds_partial_sums_of_the_product(parts: int, rows: int, inputs: int) -> None:
    """Rows of the residual stream need not be adjacent, as for the second positions of a pass."""
    stream, weight, x = random(2 * rows, 10)[1::2], random(10, inputs), random(rows, inputs)
    tiling = ONE if rows == 1 else Tiling(16, 16, 4, 4, parts)
    expected = stream + F.linear(x, weight)
    left = Linear(weight, LAUNCH, tiling=tiling).add(x, stream)
    norm = Norm(random(10), 1e-6)
    normed = norm(stream, left, LAUNCH)
    assert (stream - expected).abs().max() < EXACT * expected.abs().max()
    assert (normed - F.rms_norm(expected, (10,), norm.gain, norm.eps)).abs().max() < EXACT
    assert (left is None) == (rows == 1)


def test_tilings_of_a_shape_sum_in_the_same_order() -> None:
    """Parts and kind of instruction: `wgmma`, which a Hopper takes for 64 rows of weights, may round otherwise."""
    shapes = {(product.kind, product.outputs, product.inputs) for product in MEASURED}
    assert len(shapes) > 10
    for shape in shapes:
        tilings = [MEASURED[Product(*shape, rows)] for rows in ROW_BLOCKS]
        assert len({(tiling.parts, tiling.outputs >= 64) for tiling in tilings}) == 1, shape
        assert MEASURED[Product(*shape, 1)].depth >= shape[2]


def test_tiling_table_round_trips() -> None:
    assert read(["# a GPU", *lines_of(MEASURED)]) == MEASURED
    assert find_tiling(Product("plain", 4096, 1024, 16)) == MEASURED[Product("plain", 4096, 1024, 16)]


def test_row_block_is_the_smallest_that_holds_the_rows() -> None:
    assert [row_block(rows) for rows in (1, 2, 3, 16, 17, 33, 64, 65, 256)] == [1, 16, 16, 16, 32, 64, 64, 64, 64]


def test_tilings_fit_shared_memory_of_consumer_gpus() -> None:
    for product in MEASURED:
        for item_bytes in (2, 4):
            tiling = MEASURED[product].within(LAUNCH.shared_bytes, product.rows, item_bytes)
            if product.rows > 1:
                assert 1 <= tiling.stages <= MEASURED[product].stages
                size = (tiling.outputs + product.rows) * tiling.depth * tiling.stages * item_bytes
                assert size <= 99 * 1024
