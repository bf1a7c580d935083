"""A decoder layer in five kernels: norm and QKV, attention, output and residual, norm and gated product, down."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..model.layers import DecoderLayer
from .attention import AttendStep, Heads, Past
from .launch import Launch
from .linear import Linear, Norm


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """A `DecoderLayer` in fused kernels; shares its weights."""

    qkv: Linear
    attend: AttendStep
    out: Linear
    gate_up: Linear
    down: Linear

    @classmethod
    def of(cls, layer: DecoderLayer, launch: Launch) -> FusedLayer:
        attention, mlp = layer.attention, layer.mlp
        assert attention.qk_norm is not None, "a layer whose queries and keys are normed"
        sizes = Heads(attention.heads, attention.kv_heads, attention.head_dim, attention.norm_eps)
        return cls(
            qkv=Linear(attention.qkv.weight, launch, norm_of(layer.attention_norm)),
            attend=AttendStep(sizes, attention.qk_norm, launch),
            out=Linear(attention.out.weight, launch),
            gate_up=Linear(mlp.gate_up.weight, launch, norm_of(layer.mlp_norm), gated=True),
            down=Linear(mlp.down.weight, launch),
        )

    def __call__(self, x: Tensor, parts: Tensor | None, past: Past, start: int = -1, steps: int = 1) -> Tensor | None:
        """Update x [rows, H] in place. `parts`, as argument and result, are the split-K parts still to be added to x.

        See `Linear.add` for `parts` and `AttendStep` for the other arguments.
        """
        rows = x.shape[0]
        qkv = self.qkv(x, x.new_empty(rows, self.qkv.weight.shape[0]), parts)
        mixed = self.attend(qkv, past, x.new_empty(rows, self.out.weight.shape[1]), start, steps)
        parts = self.out.add(mixed, x)
        wide = self.gate_up(x, x.new_empty(rows, self.down.weight.shape[1]), parts)
        return self.down.add(wide, x)


def norm_of(norm: nn.RMSNorm) -> Norm:
    """Return the weight and eps of an nn.RMSNorm."""
    return Norm(norm.weight, norm.eps or 0.0)
