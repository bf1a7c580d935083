"""The codec decoder's step in about eighty kernels, from a ring of codes on the device to audio."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import torch
import triton
from torch import Tensor

from ..model.attention import rotary_frequencies
from ..model.codec_decoder import CodecDecoder
from ..model.streaming import CodecSnapshot, in_steps
from .codec_conv import KEPT, Conv, ConvRows, convolve
from .codec_frames import attend_ring, begin_step, mix_depthwise
from .codec_packing import Depthwise, PackedBlock, PackedLayer, PackedStage, pack
from .launch import enqueue

SIZES = (8, 4, 2, 1)
"""Step sizes in frames; the attention ring is dimensioned for the largest."""


@dataclass(frozen=True, slots=True)
class FusedSnapshot(CodecSnapshot):
    """A copy of a stream's state, in the layout of the fused kernels."""

    history: Tensor  # [floats]
    keys: Tensor  # [layers, heads, ring, head_dim]
    values: Tensor
    frames: Tensor  # []


@dataclass(frozen=True, slots=True)
class _StepContext:
    """Inputs shared by the kernels of one step."""

    rows: ConvRows
    slots: Tensor  # [B]
    positions: Tensor  # [B] frames decoded so far
    cos: Tensor  # [B · T, head_dim / 2]
    sin: Tensor
    frames: int


class FusedCodec:
    """Packed weights, and the state of `slots` streams plus a spare one (index `slots`) for padding rows.

    `dtype` is that of matrices and activations: float16 or float32 (products are then TF32 where the GPU supports it);
    sums, Snakes and residual streams are float32. A slot must not occur twice in one step. Call it with the device as
    the current one.
    """

    sizes = SIZES

    def __init__(
        self, decoder: CodecDecoder, slots: int, dtype: torch.dtype = torch.float16, device: torch.device | str = "cuda"
    ) -> None:
        t = decoder.config.transformer
        assert t.heads == t.kv_heads, (t.heads, t.kv_heads)
        self.config, self.frame_samples, self.dtype, self.device = decoder.config, decoder.frame_samples, dtype, device
        self.weights = pack(decoder, dtype, device)
        self.frequencies = rotary_frequencies(t.head_dim, t.rope_theta, device).double() / (2 * pi)  # turns per frame
        self.ring = (self.config.window_frames - 1 + SIZES[0] + 7) // 8 * 8
        self.history = torch.zeros(slots + 1, 2, self.weights.floats, dtype=dtype, device=device)
        shape = (t.layers, slots + 1, t.heads, self.ring, t.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.frames, self.turns = (torch.zeros(slots + 1, dtype=torch.int64, device=device) for _ in range(2))

    @torch.no_grad()
    def step(self, codes: Tensor, starts: Tensor, slots: Tensor, frames: int) -> Tensor:
        """Decode the next `frames` frames of streams slots [B]: float32 [B, 1920 · frames] in [-1, 1].

        codes [slots + 1, R, 16] int64 has one ring per slot; row b's frames are read from starts[b] on. Does not
        synchronise, so it can be captured; its allocations then belong to the graph.
        """
        assert 1 <= frames <= SIZES[0], frames
        step, latents = self._begin(codes, starts, slots, frames)
        x = self._transform(self._out(self.weights.pre_conv, latents, step), step)
        for stage in self.weights.stages:
            x = self._stage(stage, x, step)
        x = self._out(self.weights.enter, x, step)
        for block in self.weights.blocks:
            x = self._block(block, x, step)
        wave = self._empty(len(slots), frames * self.frame_samples, torch.float32)
        convolve(self.weights.leave, x, step.rows, out=wave)
        return wave

    @torch.no_grad()
    def reset(self, slot: int) -> None:
        """Start a new stream in a slot. Keys and values need not be cleared: a counter of 0 masks them."""
        self.history[slot].zero_()
        self.frames[slot].zero_()

    @torch.no_grad()
    def prime(self, codes: Tensor) -> FusedSnapshot:
        """Return the state after a reference's codes [frames, 16]; uses the spare slot."""
        spare = torch.full((1,), len(self.frames) - 1, device=codes.device)
        self.reset(len(self.frames) - 1)
        ring = codes.expand(len(self.frames), *codes.shape).contiguous()
        start = torch.zeros_like(spare)
        for frames in in_steps(len(codes), self.sizes):
            self.step(ring, start, spare, frames)
            start = start + frames
        return self.snapshot(len(self.frames) - 1)

    @torch.no_grad()
    def snapshot(self, slot: int) -> FusedSnapshot:
        """Return a copy of one slot's state."""
        history = self.history[slot].index_select(0, self.turns[slot : slot + 1])[0]
        return FusedSnapshot(
            history, self.keys[:, slot].clone(), self.values[:, slot].clone(), self.frames[slot].clone()
        )

    @torch.no_grad()
    def restore(self, slot: int, snapshot: FusedSnapshot) -> None:
        """Restore one slot's state from a snapshot of this codec or of one with the same layout."""
        assert isinstance(snapshot, FusedSnapshot), type(snapshot)
        self.history[slot] = snapshot.history
        self.keys[:, slot], self.values[:, slot] = snapshot.keys, snapshot.values
        self.frames[slot] = snapshot.frames

    def _empty(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, columns, dtype=dtype, device=self.device)

    def _begin(self, codes: Tensor, starts: Tensor, slots: Tensor, frames: int) -> tuple[_StepContext, Tensor]:
        config, batch, pairs = self.config, len(slots), len(self.frequencies)
        halves, positions = torch.empty_like(slots), torch.empty_like(slots)
        cos, sin = (self._empty(batch * frames, pairs, torch.float32) for _ in range(2))
        latents = self._empty(batch * frames, config.codebook_dim, self.dtype)
        enqueue(
            begin_step, (batch,),
            codes, starts, slots, self.frames, self.turns, self.weights.table, self.frequencies, halves, positions,
            cos, sin, latents, codes.shape[1],
            STEPS=frames, GROUPS=config.quantizers, CODES=config.codebook_size, WIDTH=config.codebook_dim, PAIRS=pairs,
            STEPS_BLOCK=triton.next_power_of_2(frames), WIDTH_BLOCK=triton.next_power_of_2(config.codebook_dim),
            PAIRS_BLOCK=triton.next_power_of_2(pairs),
        )  # fmt: skip
        rows = ConvRows(halves, self.history.view(-1, self.weights.floats))
        return _StepContext(rows, slots, positions, cos, sin, frames), latents

    def _out(self, conv: Conv, x: Tensor, step: _StepContext) -> Tensor:
        """Apply a convolution without a residual."""
        outputs = conv.weight.shape[0] // (2 if conv.activation == "gated" else 1)
        out = self._empty(x.numel() // conv.weight.shape[2], outputs, self.dtype)
        convolve(conv, x, step.rows, out=out)
        return out

    def _transform(self, x: Tensor, step: _StepContext) -> Tensor:
        weights = self.weights
        stream = self._empty(len(x), self.config.transformer.hidden_size, torch.float32)
        convolve(weights.enter_transformer, x, step.rows, stream=stream)
        for layer, keys, values in zip(weights.layers, self.keys, self.values, strict=True):
            self._layer(layer, stream, keys, values, step)
        return self._out(weights.leave_transformer, stream, step)

    def _layer(self, layer: PackedLayer, stream: Tensor, keys: Tensor, values: Tensor, step: _StepContext) -> None:
        """Add one layer's attention and MLP to the residual stream [B · T, hidden], in place."""
        mixed = self._attend(self._out(layer.qkv, stream, step), keys, values, step)
        convolve(layer.out, mixed, step.rows, residual=stream, stream=stream)
        inner = self._out(layer.gate_up, stream, step)
        convolve(layer.down, inner, step.rows, residual=stream, stream=stream)

    def _attend(self, qkv: Tensor, keys: Tensor, values: Tensor, step: _StepContext) -> Tensor:
        t = self.config.transformer
        mixed = self._empty(len(qkv), t.heads * t.head_dim, self.dtype)
        enqueue(
            attend_ring, (len(step.slots), t.heads),
            qkv, keys, values, step.slots, step.positions, step.cos, step.sin, mixed, keys.stride(0),
            1 / sqrt(t.head_dim), step.frames, HEADS=t.heads, SIZE=t.head_dim, RING=self.ring,
            WINDOW=self.config.window_frames, STEPS_BLOCK=16, RING_BLOCK=max(16, triton.next_power_of_2(self.ring)),
            PAIRS_BLOCK=max(16, triton.next_power_of_2(t.head_dim // 2)),
            SIZE_BLOCK=max(16, triton.next_power_of_2(t.head_dim)),
        )  # fmt: skip
        return mixed

    def _stage(self, stage: PackedStage, x: Tensor, step: _StepContext) -> Tensor:
        channels = stage.depthwise.weight.shape[1]
        rows = x.numel() // stage.upsample.weight.shape[2] * (stage.upsample.weight.shape[0] // channels)
        x, stream = self._upsample(stage.upsample, x, rows, channels, step)
        inner = self._out(stage.up, self._mix(stage.depthwise, x, step), step)
        convolve(stage.down, inner, step.rows, residual=stream, out=x)
        return x

    def _mix(self, mix: Depthwise, x: Tensor, step: _StepContext) -> Tensor:
        (rows, channels), batch = x.shape, step.rows.batch
        out, history = torch.empty_like(x), step.rows.history
        keepers = batch * triton.cdiv(mix.width * channels, KEPT.value)
        enqueue(
            mix_depthwise, (rows + keepers,),
            x, history[0, mix.offset :], step.rows.halves, mix.weight, mix.bias, out, rows, rows // batch,
            history.shape[1], mix.eps,
            CHANNELS=channels, TAPS=mix.width + 1, BLOCK=triton.next_power_of_2(channels),
        )  # fmt: skip
        return out

    def _upsample(self, conv: Conv, x: Tensor, rows: int, channels: int, step: _StepContext) -> tuple[Tensor, Tensor]:
        """Return the upsampled input of the next layer and the residual stream: both [rows, channels]."""
        out, stream = self._empty(rows, channels, self.dtype), self._empty(rows, channels, torch.float32)
        convolve(conv, x, step.rows, stream=stream, out=out)
        return out, stream

    def _block(self, block: PackedBlock, x: Tensor, step: _StepContext) -> Tensor:
        channels = block.units[0][0].weight.shape[0]
        rows = x.numel() // block.upsample.weight.shape[2] * (block.upsample.weight.shape[0] // channels)
        x, stream = self._upsample(block.upsample, x, rows, channels, step)
        for dilated, pointwise in block.units:
            y = self._out(dilated, x, step)
            x = self._empty(rows, channels, self.dtype)
            convolve(pointwise, y, step.rows, residual=stream, stream=stream, out=x)
        return x
