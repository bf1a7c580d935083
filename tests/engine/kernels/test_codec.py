"""The codec's kernels in Triton's interpreter, without a GPU: whatever the cuts, their sound is the torch decoder's."""

from __future__ import annotations

import os
import random

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
pytest.importorskip("triton")

from engine.kernels import codec_conv
from engine.kernels.codec import FusedCodec
from engine.kernels.codec_conv import Tile, choose_tile
from tests.engine.kernels.codec_fused import advance, empty_ring, new_stream, run_interleaved, small_decoder

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="tests/gpu has the compiled kernels"),
]
EXACT = 1e-4


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use few programs: the interpreter's time depends on their number, not on their size."""
    monkeypatch.setattr(codec_conv, "choose_tile", lambda *shape: Tile(64, 32, 32, 4, 2))


def whole(codes: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return small_decoder().decode(codes.T[None])[0]


def codec(slots: int = 3, dtype: torch.dtype = torch.float32) -> FusedCodec:
    return FusedCodec(small_decoder(), slots, dtype, "cpu")


def test_fused_codec_steps_equal_whole_for_any_chunks_slots_and_batches() -> None:
    chance = random.Random(0)
    for stream in run_interleaved(codec(), chance, [3, 25, 9, 14], (1, 2, 4, 8)):
        wave, expected = torch.cat(stream.waves), whole(stream.codes)
        assert wave.shape == expected.shape
        assert 0.05 < expected.std() < 0.8
        assert (wave - expected).abs().max() < EXACT


def test_fused_codec_snapshot_continues_in_any_slot() -> None:
    fused, stream = codec(2), new_stream(17, 0, 3)
    ring = empty_ring(fused)
    advance(fused, ring, [stream], 8)
    advance(fused, ring, [stream], 1)
    primed, said = fused.snapshot(0), stream.sent
    for slot in (1, 0, 1):
        stream.slot, stream.sent, stream.waves = slot, said, []
        fused.restore(slot, primed)
        advance(fused, ring, [stream], 8)
        expected = whole(stream.codes)[said * fused.frame_samples :]
        assert (torch.cat(stream.waves) - expected).abs().max() < EXACT


def test_fused_codec_is_exact_after_very_many_frames() -> None:
    fused, stream = codec(1), new_stream(32, 0, 4)
    fused.frames.fill_(100_000_000)
    ring = empty_ring(fused)
    for _ in range(4):
        advance(fused, ring, [stream], 8)
    wave, expected = torch.cat(stream.waves), whole(stream.codes)
    # The context before the first frame is not silence here, but has left the two layers of 5 frames by then.
    assert (wave - expected)[-8 * fused.frame_samples :].abs().max() < EXACT


def test_fused_codec_in_float16_is_close_and_accepts_special_codes() -> None:
    fused, stream = codec(1, torch.float16), new_stream(16, 0, 5)
    ring = empty_ring(fused)
    for _ in range(2):
        advance(fused, ring, [stream], 8)
    wave, expected = torch.cat(stream.waves), whole(stream.codes)
    noise = (wave - expected).square().mean()
    assert 10 * torch.log10(expected.square().mean() / noise) > 40
    ring[0, 0] = 2150
    fused.step(ring, torch.tensor([0]), torch.tensor([0]), 1)


def test_codec_tiles_fit_shapes_and_shared_memory() -> None:
    for rows in (1, 8, 32, 160, 1920, 61440):
        for outputs, channels in ((1, 96), (96, 96), (192, 192), (768, 768), (1536, 1024), (6144, 1536)):
            for item_bytes in (2, 4):
                tile = choose_tile(rows, outputs, channels, item_bytes)
                assert channels % tile.depth == 0
                assert (tile.rows + tile.columns) * tile.depth * item_bytes * tile.stages <= 96 * 1024
