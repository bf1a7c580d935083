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
    """The weights of a `DecoderLayer`, shared with it."""

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
        """x [rows, H] is changed in place. `parts` is what is still to be added to it, at first and in the result.

        See `Linear.add` for them, and `AttendStep` for the rest.
        """
        rows = x.shape[0]
        qkv = self.qkv(x, x.new_empty(rows, self.qkv.weight.shape[0]), parts)
        mixed = self.attend(qkv, past, x.new_empty(rows, self.out.weight.shape[1]), start, steps)
        parts = self.out.add(mixed, x)
        wide = self.gate_up(x, x.new_empty(rows, self.down.weight.shape[1]), parts)
        return self.down.add(wide, x)


def norm_of(norm: nn.RMSNorm) -> Norm:
    """The gain and eps of an nn.RMSNorm."""
    return Norm(norm.weight, norm.eps or 0.0)
