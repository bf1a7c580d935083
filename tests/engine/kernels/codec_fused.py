"""A codec decoder small enough for the Triton interpreter, and streams through a FusedCodec."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.kernels.codec import FusedCodec
from engine.model.codec_decoder import CodecDecoder
from engine.model.config import CodecDecoderConfig, TransformerConfig
from engine.model.layers import Snake
from tests.engine.support.random_inputs import codes as random_codes

RING = 16
SMALL = CodecDecoderConfig(
    transformer=TransformerConfig(
        hidden_size=24, intermediate_size=40, layers=2, heads=2, kv_heads=2, head_dim=8, rope_theta=1e4, norm_eps=1e-5
    ),
    window_frames=6, latent_size=20, codebook_dim=12, codebook_size=2048, quantizers=16, semantic_quantizers=1,
    channels=24, upsample_rates=(3, 2), upsampling_ratios=(2, 2),
)  # fmt: skip


def small_decoder(seed: int = 0) -> CodecDecoder:
    """Random weights under which every layer matters and the wave is neither silent nor clipped."""
    generator = torch.Generator().manual_seed(seed)
    decoder = CodecDecoder(SMALL)
    snakes = {id(value) for module in decoder.modules() if isinstance(module, Snake) for value in module.parameters()}
    for value in decoder.parameters():
        noise = torch.rand(value.shape, generator=generator) * 2 - 1
        fan_in = value[0].numel() if value.ndim > 1 else 4
        value.data = 1 + noise / 2 if id(value) in snakes else noise * (2 / fan_in) ** 0.5
    for module in decoder.modules():
        if isinstance(module, (torch.nn.RMSNorm, torch.nn.LayerNorm)):
            module.weight.data += 1
    decoder.out_proj.weight.data *= 0.4
    return decoder


@dataclass(eq=False)
class Stream:
    """One utterance on its way through a slot."""

    codes: Tensor  # [frames, 16]
    slot: int
    sent: int = 0
    waves: list[Tensor] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.codes) - self.sent


def new_stream(frames: int, slot: int, seed: int) -> Stream:
    return Stream(torch.from_numpy(random_codes(1, frames, seed))[0].T.contiguous(), slot)


def advance(codec: FusedCodec, ring: Tensor, streams: Sequence[Stream], frames: int, padding: int = 0) -> None:
    """Run one step of several streams, padded with rows of the spare slot; frame f is at index f of the ring."""
    for stream in streams:
        for frame in range(stream.sent, stream.sent + frames):
            ring[stream.slot, frame % ring.shape[1]] = stream.codes[frame].to(ring.device)
    spare = len(codec.frames) - 1
    slots = [stream.slot for stream in streams] + [spare] * padding
    starts = [stream.sent % ring.shape[1] for stream in streams] + [0] * padding
    given = (torch.tensor(values, device=ring.device) for values in (starts, slots))
    waves = codec.step(ring, *given, frames)
    for stream, wave in zip(streams, waves, strict=False):
        stream.waves.append(wave.cpu())
        stream.sent += frames


def empty_ring(codec: FusedCodec) -> Tensor:
    return torch.zeros(len(codec.frames), RING, 16, dtype=torch.int64, device=codec.device)


def run_interleaved(
    codec: FusedCodec, chance: random.Random, lengths: Sequence[int], steps: Sequence[int]
) -> list[Stream]:
    """Streams of these lengths through three slots, cut and grouped at random; slots are reset and used again."""
    ring = empty_ring(codec)
    waiting, running, finished = list(lengths), [], []
    free = [2, 0, 1]
    while waiting or running:
        while waiting and free:
            slot = free.pop()
            codec.reset(slot)
            running.append(new_stream(waiting.pop(), slot, chance.randrange(1 << 30)))
        group = chance.sample(running, chance.randint(1, len(running)))
        frames = chance.choice([step for step in steps if step <= min(stream.left for stream in group)])
        advance(codec, ring, group, frames, padding=chance.randint(0, 1))
        for stream in [stream for stream in running if not stream.left]:
            running.remove(stream)
            free.append(stream.slot)
            finished.append(stream)
    return finished
