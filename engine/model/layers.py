"""Layers shared by several parts of the model: packed MLP, pre-norm decoder layer, Snake, code embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, Rotary, Store
from .config import TransformerConfig

SubModule = TypeVar("SubModule", bound=nn.Module)


def module_list(modules: Iterable[SubModule]) -> Sequence[SubModule]:
    """Return an nn.ModuleList that keeps the type of its elements; torch declares them as nn.Module."""
    return cast(Sequence[SubModule], nn.ModuleList(modules))


class GatedMLP(nn.Module):
    """Computes down(silu(gate(x)) · up(x)) with gate and up in one weight, so that the input is read once."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP. The checkpoint's layer scale, if any, is folded into the output weights."""

    def __init__(self, config: TransformerConfig, qk_norm: bool) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config, qk_norm)
        self.mlp_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, rotary: Rotary, bias: Tensor | None, store: Store | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, bias, store)
        return x + self.mlp(self.mlp_norm(x))


class Snake(nn.Module):
    """Computes x + gain · sin²(frequency · x) per channel; the checkpoint's two exponentials are evaluated at load.

    The parameters remain float32 whatever the codec's dtype, because the error of bfloat16 sines is audible.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(torch.empty(channels, 1, dtype=torch.float32))
        self.gain = nn.Parameter(torch.empty(channels, 1, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.sin(x * self.frequency)  # [B, channels, T], float32
        return torch.addcmul(x.float(), self.gain, wave * wave).to(x.dtype)


class FrameEmbedding(nn.Module):
    """The code embeddings of all 16 groups in one table, so that a whole frame takes one gather and one sum."""

    offsets: Tensor

    def __init__(self, vocab_size: int, group_size: int, groups: int, hidden_size: int) -> None:
        super().__init__()
        self.vocab_size, self.group_size = vocab_size, group_size
        rows = vocab_size + (groups - 1) * group_size
        self.weight = nn.Parameter(torch.empty(rows, hidden_size))
        offsets = [0] + [vocab_size + group * group_size for group in range(groups - 1)]
        # On the CPU even within a meta-device block: the loader moves existing buffers but cannot create their values.
        self.register_buffer("offsets", torch.tensor(offsets, device="cpu"), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the sum of a frame's 16 embeddings: codes [..., 16] → [..., H]."""
        return F.embedding(codes + self.offsets, self.weight).sum(-2)

    def row(self, group: int, codes: Tensor) -> Tensor:
        """Return the table indices of one group's codes."""
        return codes if group == 0 else codes + (self.vocab_size + (group - 1) * self.group_size)

    def group0(self, codes: Tensor) -> Tensor:
        """Return the group-0 embedding only, as used in prompts: codes [...] → [..., H]."""
        return F.embedding(codes, self.weight)
