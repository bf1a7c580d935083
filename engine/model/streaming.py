"""Streaming state of the codec decoder: one row per slot, updated in place between steps.

Exact streaming needs neither a window nor a cross-fade: a causal convolution keeps its last inputs, a transposed
convolution its last overlap (before the bias), attention its last 71 keys and values. All convolution states of a slot
share one flat row, so that a step gathers and scatters them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Rotary, SlotCache, rotary, rotary_frequencies
from .config import TransformerConfig
from .layers import module_list


class ConvState(Protocol):
    """Provides a layer with the context before its input, and saves the context for the next step."""

    def extend(self, x: Tensor, width: int) -> Tensor:
        """Prepend the `width` previous inputs to x [B, C, n]: [B, C, width + n]."""

    def fold(self, y: Tensor, width: int) -> Tensor:
        """Add the previous overlap to y [B, C, n + width] and save its last `width` columns as the next overlap."""


class ZeroState:
    """Start of a stream decoded as a whole: silence before it, no state kept after it."""

    def extend(self, x: Tensor, width: int) -> Tensor:
        return F.pad(x, (width, 0))

    def fold(self, y: Tensor, width: int) -> Tensor:
        return y[..., :-width]


class RollingState:
    """States of the rows of one step, consumed in the order in which the layers run."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.offset = rows, 0  # [B, floats]

    def extend(self, x: Tensor, width: int) -> Tensor:
        past = self._take(x.shape[1], width)
        x = torch.cat((past, x), dim=-1)
        past.copy_(x[..., -width:])
        return x

    def fold(self, y: Tensor, width: int) -> Tensor:
        past = self._take(y.shape[1], width)
        y[..., :width] += past
        past.copy_(y[..., -width:])
        return y[..., :-width]

    def _take(self, channels: int, width: int) -> Tensor:
        start, self.offset = self.offset, self.offset + channels * width
        return self.rows[:, start : self.offset].view(-1, channels, width)


def in_steps(frames: int, sizes: Sequence[int]) -> list[int]:
    """Return `frames` as a sum of the given step sizes (descending, the last is 1), the longest first."""
    steps = []
    for size in sizes:
        while frames >= size:
            steps.append(size)
            frames -= size
    return steps


class CausalConv(nn.Module):
    """Convolution with left context only."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.dilation, self.groups = dilation, groups
        self.width = (kernel - 1) * dilation
        self.state_floats = inputs * self.width
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        if self.width:
            x = conv_state.extend(x, self.width)
        return F.conv1d(x, self.weight, self.bias, dilation=self.dilation, groups=self.groups)


class CausalUpsample(nn.Module):
    """Transposed convolution of kernel `rate` or 2 · `rate`; its overlap is carried over without the bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, rate: int) -> None:
        super().__init__()
        self.rate, self.width = rate, kernel - rate
        self.state_floats = outputs * self.width
        self.weight = nn.Parameter(torch.empty(inputs, outputs, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        if not self.width:
            return F.conv_transpose1d(x, self.weight, self.bias, stride=self.rate)
        y = F.conv_transpose1d(x, self.weight, None, stride=self.rate)  # [B, C, n · rate + width]
        return conv_state.fold(y, self.width) + self.bias.unsqueeze(-1)


class CodecSnapshot:
    """A copy of a stream's state, so that a voice's reference codes are decoded once rather than per sentence.

    Each codec implementation has its own subclass and can only restore that one.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class EagerSnapshot(CodecSnapshot):
    """Copy of one slot of a `CodecState`."""

    conv: Tensor  # [floats]
    keys: Tensor  # [layers, heads, ring, head_dim]
    values: Tensor
    frames: Tensor  # []


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Inputs shared by all attention layers of a step."""

    columns: Tensor  # [B, T] columns in the ring
    tables: Rotary
    visible: Tensor  # [B, T, ring]


class CodecState(nn.Module):
    """State of every slot's stream. A slot must not occur twice in a step: pad graph batches with a spare slot."""

    conv: Tensor
    frames: Tensor
    columns: Tensor
    frequencies: Tensor

    def __init__(self, config: TransformerConfig, conv: Tensor, window: int, max_step_frames: int) -> None:
        super().__init__()
        slots, device = conv.shape[0], conv.device
        # The oldest query still attends to window - 1 frames back after the last frame of the step has been written.
        ring = (window - 1 + max_step_frames + 7) // 8 * 8
        self.window, self.ring, self.max_step_frames = window, ring, ring - window + 1
        shape = (slots, config.kv_heads, ring, config.head_dim)
        self.layers = module_list(SlotCache(conv.new_zeros(shape), conv.new_zeros(shape)) for _ in range(config.layers))
        self.register_buffer("conv", conv, persistent=False)  # [slots, floats]
        self.register_buffer("frames", torch.zeros(slots, dtype=torch.int64, device=device), persistent=False)
        self.register_buffer("columns", torch.arange(ring, device=device), persistent=False)
        frequencies = rotary_frequencies(config.head_dim, config.rope_theta, device).double()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def plan(self, slots: Tensor, steps: int) -> StepPlan:
        """Return ring columns, rotary tables and visibility of the next `steps` frames of slots [B].

        Angles are computed in float64: the counter never wraps, and after days a float32 product would be off by whole
        radians.
        """
        positions = self.frames.index_select(0, slots).unsqueeze(1) + self.columns[:steps]  # [B, T]
        last = positions[:, -1:]
        frame_at = (last - (last - self.columns) % self.ring).unsqueeze(1)  # [B, 1, ring] frame in each column
        now = positions.unsqueeze(-1)
        visible = (frame_at <= now) & (frame_at > now - self.window) & (frame_at >= 0)
        tables = rotary(positions.double().unsqueeze(-1) * self.frequencies, self.conv.dtype)
        return StepPlan(positions % self.ring, tables, visible)

    @torch.no_grad()
    def reset(self, slots: Tensor) -> None:
        """Start new streams in slots [B]. Keys and values need not be cleared: a counter of 0 masks them."""
        self.conv.index_fill_(0, slots, 0)
        self.frames.index_fill_(0, slots, 0)

    @torch.no_grad()
    def snapshot(self, slot: int) -> EagerSnapshot:
        """Return a copy of one slot's state."""
        return EagerSnapshot(
            conv=self.conv[slot].clone(),
            keys=torch.stack([layer.keys[slot] for layer in self.layers]),
            values=torch.stack([layer.values[slot] for layer in self.layers]),
            frames=self.frames[slot].clone(),
        )

    @torch.no_grad()
    def restore(self, slot: int, snapshot: EagerSnapshot) -> None:
        """Restore one slot's state from a snapshot."""
        self.conv[slot] = snapshot.conv
        self.frames[slot] = snapshot.frames
        for index, layer in enumerate(self.layers):
            layer.keys[slot] = snapshot.keys[index]
            layer.values[slot] = snapshot.values[index]
