"""The speaker encoder (ECAPA-TDNN): a mel spectrogram to the x-vector that represents the voice in the prompt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import SpeakerEncoderConfig
from .layers import module_list


class PaddedConv(nn.Module):
    """Length-preserving convolution with reflect padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        side = self.dilation * (self.weight.shape[-1] - 1) // 2
        if side:
            x = F.pad(x, (side, side), mode="reflect")
        return F.conv1d(x, self.weight, self.bias, dilation=self.dilation)


class Res2Net(nn.Module):
    """Groups of channels; each group after the second is convolved together with the previous group's result."""

    def __init__(self, channels: int, kernel: int, dilation: int, scale: int) -> None:
        super().__init__()
        width = channels // scale
        self.scale = scale
        self.convs = module_list(PaddedConv(width, width, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *groups = x.chunk(self.scale, dim=1)
        done: list[Tensor] = [first]
        for index, (group, conv) in enumerate(zip(groups, self.convs, strict=True)):
            done.append(F.relu(conv(group if index == 0 else group + done[-1])))
        return torch.cat(done, dim=1)


class SpeakerBlock(nn.Module):
    """Res2Net between two pointwise layers, then a gate per channel computed from the mean over time."""

    def __init__(self, channels: int, kernel: int, dilation: int, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        self.in_proj, self.out_proj = PaddedConv(channels, channels), PaddedConv(channels, channels)
        self.res2net = Res2Net(channels, kernel, dilation, config.scale)
        self.squeeze = PaddedConv(channels, config.squeeze_channels)
        self.excite = PaddedConv(config.squeeze_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.out_proj(self.res2net(F.relu(self.in_proj(x)))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean(-1, keepdim=True)))))
        return x + y * gate


class AttentiveStatistics(nn.Module):
    """Weighted mean and standard deviation over time, with weights computed from the features and their plain
    statistics.
    """

    def __init__(self, channels: int, attention_channels: int) -> None:
        super().__init__()
        self.reduce = PaddedConv(3 * channels, attention_channels)
        self.expand = PaddedConv(attention_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, C, T] → [B, 2 · C, 1]."""
        mean, deviation = _statistics(x, torch.full_like(x[:, :1], 1 / x.shape[-1]))
        around = torch.cat((x, mean.expand_as(x), deviation.expand_as(x)), dim=1)
        weights = self.expand(torch.tanh(F.relu(self.reduce(around)))).softmax(-1)
        return torch.cat(_statistics(x, weights), dim=1)


def _statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (x * weights).sum(-1, keepdim=True)
    variance = ((x - mean).square() * weights).sum(-1, keepdim=True)
    return mean, variance.clamp(min=1e-12).sqrt()


class SpeakerEncoder(nn.Module):
    """Mel spectrograms [B, T, 128] to x-vectors of the talker's width."""

    def __init__(self, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        width, total = config.channels[0], config.channels[-1]
        self.in_proj = PaddedConv(config.mel_bins, width, config.kernel_sizes[0], config.dilations[0])
        self.blocks = module_list(
            SpeakerBlock(width, kernel, dilation, config)
            for kernel, dilation in zip(config.kernel_sizes[1:-1], config.dilations[1:-1], strict=True)
        )
        self.merge = PaddedConv(total, total, config.kernel_sizes[-1], config.dilations[-1])
        self.pool = AttentiveStatistics(total, config.attention_channels)
        self.out_proj = PaddedConv(2 * total, config.output_size)

    def forward(self, mel: Tensor) -> Tensor:
        """Map mel [B, T, 128] → [B, H]."""
        x = F.relu(self.in_proj(mel.transpose(1, 2).to(self.out_proj.weight.dtype)))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        merged = F.relu(self.merge(torch.cat(outputs, dim=1)))
        return self.out_proj(self.pool(merged)).squeeze(-1)
