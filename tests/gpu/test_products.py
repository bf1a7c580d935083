"""Every measured product on the GPU: exact, and a row's bits are the same in any company.

python -m pytest tests/gpu/test_products.py -m gpu -n 0
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels.tiles import MEASURED

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
SHAPES = sorted({(product.kind, product.outputs, product.inputs) for product in MEASURED})
ROWS = 100


@pytest.mark.parametrize(("kind", "outputs", "inputs"), SHAPES)
@torch.inference_mode()
def test_product_row_has_same_bits_in_any_batch(kind: str, outputs: int, inputs: int) -> None:
    chance = torch.Generator("cuda").manual_seed(0)
    gated = kind == "gated"
    weight = torch.randn(outputs * (1 + gated), inputs, generator=chance, device="cuda").bfloat16() * 0.02
    x = torch.randn(ROWS, inputs, generator=chance, device="cuda").bfloat16()
    expected = x.double() @ weight.double().T
    if gated:
        expected = torch.nn.functional.silu(expected[:, :outputs]) * expected[:, outputs:]
    for counts in ((1,), (2, 8, 16, 17, 32, 33, 64, ROWS)):
        made = [product(weight, x[:count], kind) for count in counts]
        for few in made:
            assert torch.equal(few, made[-1][: len(few)]), (counts, len(few))
            error = (few - expected[: len(few)]).norm() / expected[: len(few)].norm()
            assert error < 5e-3


def product(weight: Tensor, x: Tensor, kind: str) -> Tensor:
    """One product of the kind, as float64; an added one is summed as the norm after it does."""
    from engine.kernels.launch import Launch
    from engine.kernels.linear import Linear, Norm

    linear = Linear(weight, Launch.on(x.device), gated=kind == "gated")
    out = x.new_full((len(x), weight.shape[0] // (1 + linear.gated)), 0 if kind == "added" else float("nan"))
    if kind != "added":
        linear(x, out)
    elif (parts := linear.add(x, out)) is not None:
        Norm(torch.ones_like(out[0]), 1e-6)(out, parts, linear.launch)
    return out.double()
