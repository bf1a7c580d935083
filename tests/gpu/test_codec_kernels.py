"""The codec's compiled kernels at full size against the torch decoder in float32.

python -m pytest tests/gpu/test_codec_kernels.py -m gpu -s     (`python -m tests.gpu.time_codec` has the times)
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from engine.kernels.codec import FusedCodec
from tests.engine.kernels.codec_fused import advance, empty_ring, new_stream, run_interleaved
from tests.gpu.full_codec import full_decoder, snr

pytestmark = [
    pytest.mark.usefixtures("exact_float32"),
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
        reason="needs tensor cores of sm80",
    ),
]
NEAR = {torch.float16: 42.0}
"""Decibels of signal over the error. (float32 means truncated TF32 products, 36 dB: for the interpreter only.)"""
STEPS = (1, 1, 2, 4, 8)


@pytest.fixture(scope="module", params=NEAR, ids=lambda dtype: str(dtype).rpartition(".")[2])
def codec(request: pytest.FixtureRequest) -> FusedCodec:
    return FusedCodec(full_decoder(), 3, request.param, "cuda")


def whole(codes: Tensor) -> Tensor:
    with torch.inference_mode():
        return full_decoder().decode(codes.T[None].cuda())[0].cpu()


@pytest.mark.parametrize("seed", range(3))
def test_fused_codec_steps_are_close_to_whole_for_any_chunks_slots_and_batches(codec: FusedCodec, seed: int) -> None:
    chance = random.Random(seed)
    lengths = [chance.randint(1, 200) for _ in range(6)]
    found = [
        snr(torch.cat(stream.waves), whole(stream.codes)) for stream in run_interleaved(codec, chance, lengths, STEPS)
    ]
    print(f"{codec.dtype}: lowest signal-to-noise ratio {min(found):.1f} dB")
    assert min(found) > NEAR[codec.dtype]


@pytest.mark.parametrize("frames", [1, 8])
def test_captured_codec_step_equals_eager(codec: FusedCodec, frames: int) -> None:
    stream, ring = new_stream(16 * frames, 0, 1), empty_ring(codec)
    codec.reset(0)
    while stream.left:
        advance(codec, ring, [stream], frames)
    starts, slots = torch.zeros(1, dtype=torch.int64, device="cuda"), torch.zeros(1, dtype=torch.int64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        wave = codec.step(ring, starts, slots, frames)
    codec.reset(0)
    replayed = []
    for start in range(0, len(stream.codes), frames):
        ring[0, :frames] = stream.codes[start : start + frames].cuda()
        graph.replay()
        replayed.append(wave[0].cpu())
    assert torch.equal(torch.cat(replayed), torch.cat(stream.waves))


def test_fused_codec_snapshot_continues_in_another_slot(codec: FusedCodec) -> None:
    stream, ring = new_stream(40, 0, 3), empty_ring(codec)
    codec.reset(0)
    for _ in range(4):
        advance(codec, ring, [stream], 8)
    codec.restore(1, codec.snapshot(0))
    stream.slot, stream.waves = 1, []
    advance(codec, ring, [stream], 8)
    assert snr(stream.waves[0], whole(stream.codes)[32 * codec.frame_samples :]) > NEAR[codec.dtype]
