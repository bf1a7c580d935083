"""The codec decoder in pieces: however a stream is cut, its samples are those of the whole."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.model.streaming import CodecState, ZeroState
from tests.engine.support.random_inputs import codes as random_codes
from tests.engine.support.random_inputs import sound
from tests.engine.support.tiny_models import tiny_model

EXACT = 1e-4
FRAME_SAMPLES = 1920


@dataclass(eq=False)
class Stream:
    """One utterance on its way through a slot."""

    codes: torch.Tensor  # [16, frames]
    slot: int
    sent: int = 0
    waves: list[torch.Tensor] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.codes.shape[1] - self.sent

    def take(self, frames: int) -> torch.Tensor:
        piece = self.codes[:, self.sent : self.sent + frames]
        self.sent += frames
        return piece


def whole(codes: torch.Tensor) -> torch.Tensor:
    return tiny_model().decoder.decode(codes[None])[0]


def advance(streams: list[Stream], frames: int, state: CodecState) -> None:
    """One step of some streams together."""
    codes = torch.stack([stream.take(frames) for stream in streams])
    waves = tiny_model().decoder.step(codes, torch.tensor([stream.slot for stream in streams]), state)
    assert waves.shape == (len(streams), FRAME_SAMPLES * frames)
    for stream, wave in zip(streams, waves, strict=True):
        stream.waves.append(wave)


def begin(chance: random.Random, slot: int, state: CodecState) -> Stream:
    frames = chance.choice((chance.randint(1, 12), chance.randint(1, 120), chance.randint(1, 400)))
    state.reset(torch.tensor([slot]))
    return Stream(torch.from_numpy(random_codes(1, frames, chance.randrange(1 << 30)))[0], slot)


def move(stream: Stream, state: CodecState, free: int) -> int:
    """Move a stream to a free slot by snapshot, overwrite the old one, and return the slot that is free now."""
    snapshot, old = state.snapshot(stream.slot), stream.slot
    state.conv[old] = 7.0
    state.frames[old] = 12345
    state.restore(free, snapshot)
    stream.slot = free
    return old


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a seed does not shrink
    suppress_health_check=[HealthCheck.too_slow],
)
@given(seed=st.integers(0, 1 << 30))
@torch.inference_mode()
def test_decoder_steps_equal_whole_for_any_chunks_slots_and_batches(seed: int) -> None:
    chance = random.Random(seed)
    state = tiny_model().decoder.allocate(5)
    free, running, finished = 4, [begin(chance, slot, state) for slot in range(4)], []
    starts = 2
    while running:
        group = chance.sample(running, chance.randint(1, len(running)))
        frames = min([chance.choice((1, 1, 2, 4, 8, 13, 30, 90)), *(stream.left for stream in group)])
        advance(group, frames, state)
        if chance.random() < 0.3:
            free = move(chance.choice(running), state, free)
        for stream in [stream for stream in running if not stream.left]:
            running.remove(stream)
            finished.append(stream)
            if starts:
                starts -= 1
                running.append(begin(chance, stream.slot, state))
    for stream in finished:
        wave = torch.cat(stream.waves)
        assert wave.shape == (FRAME_SAMPLES * stream.codes.shape[1],)
        assert (wave - whole(stream.codes)).abs().max() < EXACT


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [(1,), (2,), (4,), (8,), (3, 1, 25, 7), (96,), (150,)])
def test_decoder_steps_equal_whole_for_fixed_chunks(cuts: tuple[int, ...]) -> None:
    stream = Stream(torch.from_numpy(random_codes(1, 150, 5))[0], 0)
    state = tiny_model().decoder.allocate(1, max_step_frames=8)
    turn = 0
    while stream.left:
        advance([stream], min(cuts[turn % len(cuts)], stream.left), state)
        turn += 1
    assert (torch.cat(stream.waves) - whole(stream.codes)).abs().max() < EXACT


@torch.inference_mode()
def test_decoder_is_exact_after_very_many_frames() -> None:
    codes, state = torch.from_numpy(random_codes(1, 220, 9)), tiny_model().decoder.allocate(1)
    slots = torch.tensor([0])
    state.frames.fill_(100_000_000)
    wave = tiny_model().decoder.step(codes, slots, state)[0]
    # The context before the first frame is not silence here, but has left the two layers of 71 frames by then.
    assert (wave - whole(codes[0]))[-40 * FRAME_SAMPLES :].abs().max() < EXACT


@torch.inference_mode()
def test_primed_snapshot_equals_reference_and_speech_decoded_together() -> None:
    voice, said = (torch.from_numpy(random_codes(1, frames, frames)) for frames in (37, 20))
    decoder, slot = tiny_model().decoder, torch.tensor([1])
    state = decoder.allocate(2)
    decoder.step(voice, slot, state)
    primed = state.snapshot(1)
    expected = whole(torch.cat((voice, said), dim=-1)[0])[37 * FRAME_SAMPLES :]
    for _ in range(2):
        state.restore(0, primed)
        wave = decoder.step(said, torch.tensor([0]), state)[0]
        assert (wave - expected).abs().max() < EXACT


@torch.inference_mode()
def test_decode_rows_are_independent() -> None:
    codes = torch.from_numpy(random_codes(3, 30, 2))
    together = tiny_model().decoder.decode(codes)
    for row in range(3):
        assert (together[row] - whole(codes[row])).abs().max() < EXACT


@torch.inference_mode()
def test_chunked_equals_decode_within_one_chunk() -> None:
    codes = torch.from_numpy(random_codes(1, 40, 3))
    decoder = tiny_model().decoder
    assert torch.equal(decoder.chunked(codes), decoder.decode(codes))
    assert decoder.chunked(codes, chunk_frames=13, context_frames=5).shape == (1, 40 * FRAME_SAMPLES)
    assert (decoder.chunked(codes, 13, 5) - decoder.decode(codes)).abs().max() > EXACT


@torch.inference_mode()
@pytest.mark.parametrize("samples", [1, 959, 960, 24_000, 24_001, 24_959, 63_217])
def test_encoder_convolution_in_pieces_equals_whole(samples: int) -> None:
    encoder = tiny_model().encoder
    wave = torch.from_numpy(sound(3)[:samples])[None, None]
    in_one = encoder._convolve_piece(wave, ZeroState())
    in_pieces = encoder._convolve(wave)
    assert in_pieces.shape == in_one.shape == (1, encoder.config.transformer.hidden_size, -(-samples // 960))
    assert (in_pieces - in_one).abs().max() < 1e-5 * in_one.abs().max()
