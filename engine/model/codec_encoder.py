"""The codec encoder (the encode half of Mimi): a reference recording to codes, once per voice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention, Rotary, rotary_table, visible_bias
from .config import CodecEncoderConfig, TransformerConfig
from .quantizer import NearestCodes


class StridedConv(nn.Module):
    """A causal convolution that completes its last stride at the right, so that no sample is lost."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = True, pad_mode: str = "constant"
    ) -> None:
        super().__init__()
        self.stride, self.pad_mode = stride, pad_mode
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, inputs, n] → [B, outputs, ceil(n / stride)]."""
        left = self.weight.shape[-1] - self.stride
        right = -x.shape[-1] % self.stride
        return F.conv1d(F.pad(x, (left, right), mode=self.pad_mode), self.weight, self.bias, stride=self.stride)


class ShrinkingBlock(nn.Module):
    """One residual unit, then a convolution that divides the rate and doubles the channels."""

    def __init__(self, channels: int, ratio: int, config: CodecEncoderConfig) -> None:
        super().__init__()
        inner = channels // config.compress
        self.wide = StridedConv(channels, inner, config.residual_kernel_size)
        self.point = StridedConv(inner, channels, kernel=1)
        self.shrink = StridedConv(channels, 2 * channels, kernel=2 * ratio, stride=ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.point(F.elu(self.wide(F.elu(x))))
        return self.shrink(F.elu(x))


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
    """Waveforms to codes. One recording at a time gives the most reproducible last frame."""

    def __init__(self, config: CodecEncoderConfig) -> None:
        super().__init__()
        self.config = config
        t, channels = config.transformer, config.filters
        self.enter = StridedConv(1, channels, config.kernel_size)
        self.blocks = nn.ModuleList(
            ShrinkingBlock(channels * 2**stage, ratio, config) for stage, ratio in enumerate(config.ratios)
        )
        self.leave = StridedConv(channels * 2 ** len(config.ratios), t.hidden_size, config.last_kernel_size)
        self.layers = nn.ModuleList(EncoderLayer(t) for _ in range(t.layers))
        self.downsample = StridedConv(t.hidden_size, t.hidden_size, 4, 2, bias=False, pad_mode="replicate")
        acoustic = config.kept_quantizers - config.semantic_quantizers
        shape = (config.codebook_size, config.codebook_dim, t.hidden_size)
        self.semantic = NearestCodes(config.semantic_quantizers, *shape)
        self.acoustic = NearestCodes(acoustic, *shape)

    def forward(self, wave: Tensor) -> Tensor:
        """wave [B, N] at 24 kHz → codes [B, 16, ceil(N / 1920)]."""
        x = self.enter(wave.unsqueeze(1).to(self.enter.weight.dtype))
        for block in self.blocks:
            x = block(x)
        x = self._transform(self.leave(F.elu(x)).transpose(1, 2))
        latents = self.downsample(x.transpose(1, 2)).transpose(1, 2)  # [B, frames, hidden]
        return torch.cat((self.semantic(latents), self.acoustic(latents)), dim=1)

    def _transform(self, x: Tensor) -> Tensor:
        # Plain causal: the window of 250 that the config declares is not applied by the reference either.
        t, steps = self.config.transformer, x.shape[1]
        tables = rotary_table(t.head_dim, t.rope_theta, steps, x.device, x.dtype)
        causal = torch.ones(1, steps, steps, dtype=torch.bool, device=x.device).tril()
        bias = visible_bias(causal, t.heads // t.kv_heads, x.dtype)
        for layer in self.layers:
            x = layer(x, tables, bias)
        return x
