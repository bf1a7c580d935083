"""The codec decoder's weights in its kernels' layout: rows of taps, with norms and Snakes folded into neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn

from ..model.codec_decoder import CodecDecoder, ConvNeXt, DecoderBlock, FrameTransformer
from ..model.layers import DecoderLayer, Snake
from ..model.streaming import CausalConv, CausalUpsample
from .codec_conv import Conv


@dataclass(frozen=True, slots=True)
class Depthwise:
    """A depthwise convolution and the layer norm after it, without the norm's weight and bias."""

    weight: Tensor  # [taps, C] float32
    bias: Tensor  # [C]
    eps: float
    offset: int

    @property
    def width(self) -> int:
        return self.weight.shape[0] - 1


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One transformer layer."""

    qkv: Conv
    out: Conv
    gate_up: Conv
    down: Conv


@dataclass(frozen=True, slots=True)
class PackedStage:
    """An upsampling convolution and its ConvNeXt."""

    upsample: Conv
    depthwise: Depthwise
    up: Conv
    down: Conv


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """A decoder block: an upsampling, then pairs of a dilated and a pointwise convolution."""

    upsample: Conv
    units: list[tuple[Conv, Conv]]


@dataclass(frozen=True, slots=True)
class PackedCodec:
    """All weights of the decoder, without its state."""

    table: Tensor  # [groups · codebook_size, width]
    pre_conv: Conv
    enter_transformer: Conv
    layers: list[PackedLayer]
    leave_transformer: Conv
    stages: list[PackedStage]
    enter: Conv
    blocks: list[PackedBlock]
    leave: Conv
    floats: int
    """History elements of all convolutions of a stream."""


def pack(decoder: CodecDecoder, dtype: torch.dtype, device: torch.device | str) -> PackedCodec:
    """Copy the decoder's weights to `device`: matrices in `dtype`, vectors in float32."""
    return _Packer(dtype, device).codec(decoder)


class _SnakeVectors(TypedDict, total=False):
    """Arguments of `Conv` for the Snake after it; empty without one."""

    frequency: Tensor
    gain: Tensor


class _Packer:
    """Packs the matrices and assigns each history its offset."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str) -> None:
        self.dtype, self.device, self.floats = dtype, device, 0

    @torch.no_grad()
    def codec(self, decoder: CodecDecoder) -> PackedCodec:
        snakes = [block.snake for block in decoder.blocks] + [decoder.snake]
        transformer = decoder.transformer
        return PackedCodec(
            table=decoder.quantizer.table.to(self.device, self.dtype),
            pre_conv=self._conv(decoder.pre_conv),
            enter_transformer=self._linear(transformer.in_proj),
            layers=[self._layer(layer) for layer in transformer.layers],
            leave_transformer=self._leave(transformer),
            stages=[self._stage(stage.upsample, stage.mix) for stage in decoder.stages],
            enter=self._conv(decoder.in_proj, snakes[0]),
            blocks=[self._block(block, snake) for block, snake in zip(decoder.blocks, snakes[1:], strict=True)],
            leave=self._conv(decoder.out_proj, activation="clamp"),
            floats=self.floats,
        )

    def _layer(self, layer: DecoderLayer) -> PackedLayer:
        gate_up = layer.mlp.gate_up.weight.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)  # gate, up, gate, ...
        return PackedLayer(
            qkv=self._normed(layer.attention_norm, layer.attention.qkv.weight),
            out=self._linear(layer.attention.out),
            gate_up=self._normed(layer.mlp_norm, gate_up, activation="gated"),
            down=self._linear(layer.mlp.down),
        )

    def _leave(self, transformer: FrameTransformer) -> Conv:
        return self._normed(transformer.norm, transformer.out_proj.weight, bias=self._vector(transformer.out_proj.bias))

    def _stage(self, upsample: CausalUpsample, mix: ConvNeXt) -> PackedStage:
        norm, depthwise = mix.norm, mix.depthwise
        up = self._matrix((mix.up.weight * norm.weight).unsqueeze(1))
        return PackedStage(
            upsample=self._upsample(upsample),
            depthwise=Depthwise(
                weight=self._vector(depthwise.weight.squeeze(1).T),
                bias=self._vector(depthwise.bias),
                eps=norm.eps,
                offset=self._remember(depthwise.state_floats),
            ),
            up=Conv(up, self._vector(mix.up.bias + mix.up.weight @ norm.bias), activation="gelu"),
            down=self._linear(mix.down),
        )

    def _block(self, block: DecoderBlock, following: Snake) -> PackedBlock:
        """Pack a block; `following` is the Snake applied to its output."""
        nexts: Sequence[Snake] = [*(unit.snake1 for unit in block.units), following]
        return PackedBlock(
            upsample=self._upsample(block.upsample, nexts[0]),
            units=[
                (self._conv(unit.dilated, unit.snake2), self._conv(unit.pointwise, snake))
                for unit, snake in zip(block.units, nexts[1:], strict=True)
            ],
        )

    def _conv(self, conv: CausalConv, snake: Snake | None = None, activation: str = "") -> Conv:
        return Conv(
            weight=self._matrix(conv.weight.transpose(1, 2)),
            bias=self._vector(conv.bias),
            dilation=conv.dilation,
            offset=self._remember(conv.state_floats),
            activation=activation,
            **self._snake(snake),
        )

    def _upsample(self, conv: CausalUpsample, snake: Snake | None = None) -> Conv:
        """Pack an upsampling: `rate` outputs per input, from this and the previous input, instead of an overlap-add."""
        inputs, rate = conv.weight.shape[0], conv.rate
        weight = conv.weight.unflatten(2, (-1, rate)).flip(
            2
        )  # [C, outputs, taps, rate], the previous input's tap first
        return Conv(
            weight=self._matrix(weight.permute(3, 1, 2, 0).flatten(0, 1)),
            bias=self._vector(conv.bias.repeat(rate)),
            offset=self._remember(inputs if conv.width else 0),
            **self._snake(snake, rate),
        )

    def _linear(self, linear: nn.Linear) -> Conv:
        bias = None if linear.bias is None else self._vector(linear.bias)
        return Conv(self._matrix(linear.weight.unsqueeze(1)), bias)

    def _normed(self, norm: nn.RMSNorm, weight: Tensor, bias: Tensor | None = None, activation: str = "") -> Conv:
        matrix = self._matrix((weight * norm.weight).unsqueeze(1))
        return Conv(matrix, bias, activation=activation, norm_eps=norm.eps)

    def _snake(self, snake: Snake | None, repeats: int = 1) -> _SnakeVectors:
        if snake is None:
            return {}
        frequency, gain = (self._vector(values.flatten().repeat(repeats)) for values in (snake.frequency, snake.gain))
        return {"frequency": frequency, "gain": gain}

    def _remember(self, floats: int) -> int:
        start = self.floats
        self.floats += -(-floats // 16) * 16  # vector loads need aligned rows
        return start

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.device, self.dtype).contiguous()

    def _vector(self, values: Tensor) -> Tensor:
        return values.detach().to(self.device, torch.float32).contiguous()
