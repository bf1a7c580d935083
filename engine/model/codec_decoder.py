"""The codec decoder: codes to waveform, all at once or in streaming steps, with exactly the same result."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Rotary, Store, rotary, rotary_frequencies, visible_bias
from .config import CODEC_STEP_FRAMES, CodecDecoderConfig
from .layers import DecoderLayer, Snake, module_list
from .quantizer import ResidualVQDecoder
from .streaming import CausalConv, CausalUpsample, CodecState, ConvState, RollingState, ZeroState


class FrameTransformer(nn.Module):
    """Eight attention layers at frame rate, between an input and an output projection."""

    def __init__(self, config: CodecDecoderConfig) -> None:
        super().__init__()
        t = config.transformer
        self.in_proj = nn.Linear(config.latent_size, t.hidden_size)
        self.layers = module_list(DecoderLayer(t, qk_norm=False) for _ in range(t.layers))
        self.norm = nn.RMSNorm(t.hidden_size, eps=t.norm_eps)
        self.out_proj = nn.Linear(t.hidden_size, config.latent_size)

    def forward(self, x: Tensor, tables: Rotary, bias: Tensor, stores: Sequence[Store | None]) -> Tensor:
        """Map x [B, latent, T] → [B, latent, T]."""
        x = self.in_proj(x.transpose(1, 2))
        for layer, store in zip(self.layers, stores, strict=True):
            x = layer(x, tables, bias, store)
        return self.out_proj(self.norm(x)).transpose(1, 2)


class ConvNeXt(nn.Module):
    """Depthwise convolution and pointwise MLP; the layer scale is folded into the second matrix."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = CausalConv(channels, channels, kernel=7, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up = nn.Linear(channels, 4 * channels)
        self.down = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        y = self.norm(self.depthwise(x, conv_state).transpose(1, 2))  # [B, T, channels]
        return x + self.down(F.gelu(self.up(y))).transpose(1, 2)


class UpsampleStage(nn.Module):
    """Doubles the frame rate, ahead of the decoder blocks."""

    def __init__(self, channels: int, rate: int) -> None:
        super().__init__()
        self.upsample = CausalUpsample(channels, channels, kernel=rate, rate=rate)
        self.mix = ConvNeXt(channels)

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        return self.mix(self.upsample(x, conv_state), conv_state)


class ResidualUnit(nn.Module):
    """Computes x + pointwise(snake(dilated(snake(x))))."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.snake1, self.snake2 = Snake(channels), Snake(channels)
        self.dilated = CausalConv(channels, channels, kernel=7, dilation=dilation)
        self.pointwise = CausalConv(channels, channels, kernel=1)

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        return x + self.pointwise(self.snake2(self.dilated(self.snake1(x), conv_state)), conv_state)


class DecoderBlock(nn.Module):
    """Upsamples and halves the channels, then applies residual units with growing dilations."""

    def __init__(self, inputs: int, outputs: int, rate: int) -> None:
        super().__init__()
        self.snake = Snake(inputs)
        self.upsample = CausalUpsample(inputs, outputs, kernel=2 * rate, rate=rate)
        self.units = module_list(ResidualUnit(outputs, dilation) for dilation in (1, 3, 9))

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        x = self.upsample(self.snake(x), conv_state)
        for unit in self.units:
            x = unit(x, conv_state)
        return x


class CodecDecoder(nn.Module):
    """Codes [B, 16, T] to waveforms [B, 1920 · T]. Holds weights only; the state of streams is in a CodecState."""

    def __init__(self, config: CodecDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.frame_samples = prod(config.upsampling_ratios) * prod(config.upsample_rates)
        widths = [config.channels // 2**stage for stage in range(len(config.upsample_rates) + 1)]
        self.quantizer = ResidualVQDecoder(config.quantizers, config.codebook_size, config.codebook_dim)
        self.pre_conv = CausalConv(config.codebook_dim, config.latent_size, kernel=3)
        self.transformer = FrameTransformer(config)
        self.stages = module_list(UpsampleStage(config.latent_size, rate) for rate in config.upsampling_ratios)
        self.in_proj = CausalConv(config.latent_size, config.channels, kernel=7)
        self.blocks = module_list(
            DecoderBlock(inputs, outputs, rate)
            for inputs, outputs, rate in zip(widths, widths[1:], config.upsample_rates, strict=False)
        )
        self.snake = Snake(widths[-1])
        self.out_proj = CausalConv(widths[-1], 1, kernel=7)

    def allocate(self, slots: int, max_step_frames: int = CODEC_STEP_FRAMES) -> CodecState:
        """Allocate static state for `slots` streams; steps longer than `max_step_frames` are split."""
        floats = sum(getattr(module, "state_floats", 0) for module in self.modules())
        conv = self.quantizer.table.new_zeros(slots, floats)
        return CodecState(self.config.transformer, conv, self.config.window_frames, max_step_frames)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode a complete utterance at once: codes [B, 16, T] → [B, 1920 · T] in [-1, 1]."""
        t = self.config.transformer
        frames = torch.arange(codes.shape[-1], device=codes.device)
        ago = frames.unsqueeze(1) - frames  # [T, T] distance from query back to key
        visible = ((ago >= 0) & (ago < self.config.window_frames)).unsqueeze(0)
        frequencies = rotary_frequencies(t.head_dim, t.rope_theta, codes.device).double()
        dtype = self.quantizer.table.dtype
        tables = rotary(torch.outer(frames.double(), frequencies), dtype)
        bias = visible_bias(visible, t.heads // t.kv_heads, dtype)
        conv_state = ZeroState()
        latents = self.pre_conv(self.quantizer(codes), conv_state)
        return self._wave(self.transformer(latents, tables, bias, [None] * t.layers), conv_state)

    def chunked(self, codes: Tensor, chunk_frames: int = 300, context_frames: int = 25) -> Tensor:
        """Decode as the reference does for files: independent chunks, each with some left context whose output is
        dropped.
        """
        waves = []
        for start in range(0, codes.shape[-1], chunk_frames):
            context = min(context_frames, start)
            wave = self.decode(codes[..., start - context : start + chunk_frames])
            waves.append(wave[:, context * self.frame_samples :])
        return torch.cat(waves, dim=-1)

    def step(self, codes: Tensor, slots: Tensor, state: CodecState) -> Tensor:
        """Decode the next frames of streams slots [B]: codes [B, 16, T] → [B, 1920 · T].

        The concatenated output equals `decode` of all the codes.
        """
        pieces = codes.split(state.max_step_frames, dim=-1)
        if len(pieces) == 1:
            return self._step(codes, slots, state)
        return torch.cat([self._step(piece, slots, state) for piece in pieces], dim=-1)

    def _step(self, codes: Tensor, slots: Tensor, state: CodecState) -> Tensor:
        t, steps = self.config.transformer, codes.shape[-1]
        plan = state.plan(slots, steps)
        bias = visible_bias(plan.visible, t.heads // t.kv_heads, state.conv.dtype)
        stores = [partial(layer.update, slots=slots, columns=plan.columns, length=state.ring) for layer in state.layers]
        rows = state.conv.index_select(0, slots)
        conv_state = RollingState(rows)
        latents = self.pre_conv(self.quantizer(codes), conv_state)
        wave = self._wave(self.transformer(latents, plan.tables, bias, stores), conv_state)
        assert conv_state.offset == rows.shape[1], (conv_state.offset, rows.shape)
        state.conv.index_copy_(0, slots, rows)
        state.frames.index_add_(0, slots, torch.full_like(slots, steps))
        return wave

    def _wave(self, x: Tensor, conv_state: ConvState) -> Tensor:
        for stage in self.stages:
            x = stage(x, conv_state)
        x = self.in_proj(x, conv_state)
        for block in self.blocks:
            x = block(x, conv_state)
        return self.out_proj(self.snake(x), conv_state).squeeze(1).clamp(-1, 1)
