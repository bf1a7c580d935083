"""Grouped-query attention with packed QKV weights, and KV caches that are updated in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TransformerConfig

Rotary = tuple[Tensor, Tensor]
"""cos and signed sin, each [..., T, head_dim]. The sign of rotate-half is folded into the first half of the sine."""

Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Stores new keys and values [B, T, kv_heads, head_dim]; returns all those to attend to [B, kv_heads, L, head_dim]."""


def rotary_frequencies(head_dim: int, theta: float, device: torch.device | str = "cpu") -> Tensor:
    """Return theta^(-2i/d) for the d/2 rotated pairs, float32 [head_dim / 2]."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


def rotary(angles: Tensor, dtype: torch.dtype) -> Rotary:
    """Return cos and signed sin of angles [..., head_dim / 2], computed in the angles' dtype and then cast."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def rotary_table(head_dim: int, theta: float, positions: int, device: torch.device, dtype: torch.dtype) -> Rotary:
    """Return cos and signed sin of the first `positions` positions, each [positions, head_dim]."""
    steps = torch.arange(positions, dtype=torch.float32, device=device)
    return rotary(torch.outer(steps, rotary_frequencies(head_dim, theta, device)), dtype)


def visible_bias(visible: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """Return an additive mask for grouped queries: visible [B, T, L] → [B, 1, group · T, L] of 0 and -inf."""
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))
    return bias.repeat(1, group, 1).unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + d/2) of x [B, T, heads, d] by tables [..., T, d]."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos.unsqueeze(-2), x.roll(half, -1), sin.unsqueeze(-2))


class Attention(nn.Module):
    """One attention layer. The query heads of a KV group are laid out as extra queries, so keys are never repeated."""

    def __init__(self, config: TransformerConfig, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.norm_eps = config.norm_eps
        rows = config.heads + 2 * config.kv_heads
        self.qkv = nn.Linear(config.hidden_size, rows * config.head_dim, bias=False)
        self.out = nn.Linear(config.heads * config.head_dim, config.hidden_size, bias=False)
        # One weight per query and key head, so that a single RMS norm serves both.
        shape = (config.heads + config.kv_heads, config.head_dim)
        self.qk_norm = nn.Parameter(torch.empty(shape)) if qk_norm else None

    def forward(self, x: Tensor, rotary: Rotary, bias: Tensor | None, store: Store | None = None) -> Tensor:
        """Apply attention to x [B, T, H] → [B, T, H].

        `bias` [B or 1, 1, G·T, L] is added to the scores; `store` saves the keys and values.
        """
        query, key, value = self.project(x, rotary)
        keys, values = store(key, value) if store is not None else (key.transpose(1, 2), value.transpose(1, 2))
        mixed = F.scaled_dot_product_attention(self._grouped(query), keys, values, attn_mask=bias)
        return self.out(self._ungrouped(mixed, x.shape[1]))

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, T, heads, d], keys and values [B, T, kv_heads, d] of x [B, T, H], normed and rotated."""
        batch, steps, _ = x.shape
        parts = self.qkv(x).view(batch, steps, -1, self.head_dim)
        qk, value = parts.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.qk_norm is not None:
            qk = F.rms_norm(qk, (self.head_dim,), None, self.norm_eps) * self.qk_norm
        query, key = rotate(qk, *rotary).split((self.heads, self.kv_heads), dim=2)
        return query, key, value

    def _grouped(self, query: Tensor) -> Tensor:
        batch, steps = query.shape[:2]
        query = query.view(batch, steps, self.kv_heads, -1, self.head_dim).permute(0, 2, 3, 1, 4)
        return query.reshape(batch, self.kv_heads, -1, self.head_dim)  # [B, kv_heads, G·T, d]

    def _ungrouped(self, mixed: Tensor, steps: int) -> Tensor:
        batch = mixed.shape[0]
        mixed = mixed.view(batch, self.kv_heads, -1, steps, self.head_dim).permute(0, 3, 1, 2, 4)
        return mixed.reshape(batch, steps, self.heads * self.head_dim)


class LayerCache(nn.Module):
    """Keys and values of one layer, in buffers with fixed addresses; each subclass defines their layout."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("values", values, persistent=False)


class SlotCache(LayerCache):
    """[slots, kv_heads, columns, head_dim]; a column is a position or a place in a ring buffer."""

    def update(self, key: Tensor, value: Tensor, slots: Tensor, columns: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Write key and value [B, T, kv_heads, d] at (slots [B], columns [B, T]); return the first `length` columns."""
        rows = slots.unsqueeze(1)
        self.keys[rows, :, columns] = key
        self.values[rows, :, columns] = value
        return self.keys[:, :, :length].index_select(0, slots), self.values[:, :, :length].index_select(0, slots)


class FrameCache(LayerCache):
    """[rows, kv_heads, 16, head_dim] for one frame: rows of the batch, positions fixed when the graph is captured."""

    def update(self, key: Tensor, value: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Write key and value [B, T, kv_heads, d] from position `start` on; return everything up to the last one
        written.
        """
        batch, steps = key.shape[:2]
        end = start + steps
        self.keys[:batch, :, start:end] = key.transpose(1, 2)
        self.values[:batch, :, start:end] = value.transpose(1, 2)
        return self.keys[:batch, :, :end], self.values[:batch, :, :end]
