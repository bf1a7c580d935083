"""The codec encoder (the encoder half of Mimi): a reference recording to codes, once per voice."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, Rotary, rotary_table, visible_bias
from .config import CodecEncoderConfig, TransformerConfig
from .layers import module_list
from .quantizer import ResidualVQEncoder
from .streaming import ConvState, RollingState

PIECE_STRIDES = 25
"""Length of a piece convolved at once, in transformer steps: one second."""


class StridedConv(nn.Module):
    """Causal convolution that pads the last stride with silence, so that no samples are lost."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.width = stride, kernel - stride
        self.state_floats = inputs * self.width
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        """Map x [B, inputs, n] → [B, outputs, ceil(n / stride)]."""
        missing = -x.shape[-1] % self.stride
        if self.width:
            x = conv_state.extend(x, self.width)
        return F.conv1d(F.pad(x, (0, missing)) if missing else x, self.weight, self.bias, stride=self.stride)


class DownsampleConv(nn.Module):
    """Causal convolution of stride 2 with replicate padding at both ends."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, channels, n] → [B, channels, ceil(n / 2)]."""
        return F.conv1d(F.pad(x, (2, x.shape[-1] % 2), mode="replicate"), self.weight, stride=2)


class EncoderBlock(nn.Module):
    """One residual unit, then a strided convolution that lowers the rate and doubles the channels."""

    def __init__(self, channels: int, ratio: int, config: CodecEncoderConfig) -> None:
        super().__init__()
        inner = channels // config.compress
        self.wide = StridedConv(channels, inner, config.residual_kernel_size)
        self.point = StridedConv(inner, channels, kernel=1)
        self.shrink = StridedConv(channels, 2 * channels, kernel=2 * ratio, stride=ratio)

    def forward(self, x: Tensor, conv_state: ConvState) -> Tensor:
        x = x + self.point(F.elu(self.wide(F.elu(x), conv_state)), conv_state)
        return self.shrink(F.elu(x), conv_state)


class EncoderLayer(nn.Module):
    """Pre-norm attention and GELU MLP; both layer scales are folded into the output weights."""

    def __init__(self, t: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(t.hidden_size, eps=t.norm_eps)
        self.attention = Attention(t, qk_norm=False)
        self.mlp_norm = nn.LayerNorm(t.hidden_size, eps=t.norm_eps)
        self.up = nn.Linear(t.hidden_size, t.intermediate_size, bias=False)
        self.down = nn.Linear(t.intermediate_size, t.hidden_size, bias=False)

    def forward(self, x: Tensor, tables: Rotary, bias: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), tables, bias)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class CodecEncoder(nn.Module):
    """Waveforms to codes. The last frame is most reproducible when recordings are encoded one at a time."""

    def __init__(self, config: CodecEncoderConfig) -> None:
        super().__init__()
        self.config = config
        t, channels = config.transformer, config.filters
        self.in_proj = StridedConv(1, channels, config.kernel_size)
        self.blocks = module_list(
            EncoderBlock(channels * 2**stage, ratio, config) for stage, ratio in enumerate(config.ratios)
        )
        self.out_proj = StridedConv(channels * 2 ** len(config.ratios), t.hidden_size, config.last_kernel_size)
        self.layers = module_list(EncoderLayer(t) for _ in range(t.layers))
        self.downsample = DownsampleConv(t.hidden_size)
        acoustic = config.kept_quantizers - config.semantic_quantizers
        shape = (config.codebook_size, config.codebook_dim, t.hidden_size)
        self.semantic = ResidualVQEncoder(config.semantic_quantizers, *shape)
        self.acoustic = ResidualVQEncoder(acoustic, *shape)

    def forward(self, wave: Tensor) -> Tensor:
        """Encode wave [B, N] at 24 kHz → codes [B, 16, ceil(N / 1920)]."""
        x = self._transform(self._convolve(wave.unsqueeze(1).to(self.in_proj.weight.dtype)).transpose(1, 2))
        latents = self.downsample(x.transpose(1, 2)).transpose(1, 2)  # [B, frames, hidden]
        return torch.cat((self.semantic(latents), self.acoustic(latents)), dim=1)

    def _convolve(self, wave: Tensor) -> Tensor:
        """Map wave [B, 1, N] → [B, hidden, ceil(N / 960)], piece by piece: whole minutes would need gigabytes."""
        floats = sum(getattr(module, "state_floats", 0) for module in self.modules())
        past = wave.new_zeros(wave.shape[0], floats)
        piece_samples = PIECE_STRIDES * prod(self.config.ratios)
        return torch.cat(
            [self._convolve_piece(piece, RollingState(past)) for piece in wave.split(piece_samples, -1)], -1
        )

    def _convolve_piece(self, x: Tensor, conv_state: ConvState) -> Tensor:
        x = self.in_proj(x, conv_state)
        for block in self.blocks:
            x = block(x, conv_state)
        return self.out_proj(F.elu(x), conv_state)

    def _transform(self, x: Tensor) -> Tensor:
        # Plain causal attention: the reference does not apply the window of 250 that the config declares either.
        t, steps = self.config.transformer, x.shape[1]
        tables = rotary_table(t.head_dim, t.rope_theta, steps, x.device, x.dtype)
        causal = torch.ones(1, steps, steps, dtype=torch.bool, device=x.device).tril()
        bias = visible_bias(causal, t.heads // t.kv_heads, x.dtype)
        for layer in self.layers:
            x = layer(x, tables, bias)
        return x
