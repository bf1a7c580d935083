"""Windowed decoding: every sample appears once, in its place, and seams are inaudible."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.api.stream_options import StreamOptions
from engine.api.windowed_decode import (
    StreamingChunkDecoder,
    WindowedChunkDecoder,
    cross_fade,
    decode_outputs,
    decode_outputs_in_thread,
    fade_in,
)
from engine.scheduler.job import ChunkOutput
from engine.scheduler.sequence import FinishReason
from tests.engine.support.random_inputs import codes as random_codes
from tests.engine.support.tiny_models import tiny_model

FRAME = 1920


def options(**given: object) -> StreamOptions:
    return StreamOptions(windowed_decode=True, **given)  # type: ignore[arg-type]


def counted(start: int, frames: int) -> Tensor:
    """Codes [16, frames] that are the number of their frame."""
    return torch.arange(start, start + frames).expand(16, -1)


def ramp(codes: Tensor) -> Tensor:
    """A decoder whose samples are their own place in time; a gap or a padded frame would be seen."""
    assert (codes[0].diff() == 1).all(), codes[0]
    return (codes[0].double()[:, None] * FRAME + torch.arange(FRAME)).flatten()


def parts(codes: Tensor, sizes: StreamOptions, late_end: bool) -> Iterator[ChunkOutput]:
    """Split codes [16, frames] into the chunks of the plan. `late_end`: the end is known only after the last chunk."""
    plan, start, chunk, frames = sizes.emission, 0, 0, codes.shape[1]
    while start < frames:
        end = min(start + plan.frames(chunk), frames)
        full = end - start == plan.frames(chunk)
        ended = end == frames and not (late_end and full)
        yield ChunkOutput(1, codes[:, start:end], torch.empty(0), ended=ended)
        start, chunk = end, chunk + 1
        if start == frames and not ended:
            yield ChunkOutput(1, codes[:, :0], torch.empty(0), ended=True)


@st.composite
def wishes(draw: st.DrawFn) -> StreamOptions:
    """Any combination of streaming parameters that is not refused."""
    steady, first = draw(st.integers(1, 30)), draw(st.integers(0, 20))
    overlap = draw(st.one_of(st.just(512), st.integers(0, 2 * FRAME)))
    smallest = min(steady, first or steady) * FRAME
    assume(overlap <= smallest)
    room = -(-overlap // FRAME)
    return options(
        emit_every_frames=steady,
        decode_window_frames=steady + room + draw(st.integers(0, 60)),
        overlap_samples=overlap,
        first_chunk_emit_every=first,
        first_chunk_decode_window=max(first, 1) + room + draw(st.integers(0, 60)),
        first_chunk_frames=max(first, 1) + draw(st.integers(0, 40)),
    )


@settings(max_examples=150, deadline=None)
@given(wishes(), st.integers(1, 150), st.integers(0, 60), st.booleans())
def test_windowed_decoder_keeps_every_sample_in_place(
    wish: StreamOptions, frames: int, before: int, late: bool
) -> None:
    assert wish.windows is not None
    reference = counted(-before, before).T if before else None
    sound, overlap = WindowedChunkDecoder(ramp, wish.windows, reference, FRAME), wish.overlap_samples
    waves, made = [], 0
    for part in parts(counted(0, frames), wish, late):
        waves.append(sound.decode(part))
        made += part.codes.shape[1]
        held = 0 if part.ended else overlap
        assert sum(map(len, waves)) == made * FRAME - held
    wave = torch.cat(waves)
    assert len(wave) == frames * FRAME
    inside = slice(overlap, len(wave) - overlap)
    torch.testing.assert_close(wave[inside], torch.arange(len(wave)).double()[inside], rtol=0, atol=0.1)


@settings(max_examples=25, deadline=None)
@given(wishes(), st.integers(2, 40), st.integers(0, 1 << 20))
@torch.inference_mode()
def test_windowed_decoder_seams_are_as_smooth_as_the_signal(wish: StreamOptions, frames: int, seed: int) -> None:
    assume(wish.overlap_samples >= 64)
    assert wish.windows is not None
    decoder = tiny_model().decoder
    codes = torch.from_numpy(random_codes(1, frames, seed))[0]
    sound = WindowedChunkDecoder(lambda window: decoder.decode(window[None])[0], wish.windows, None, FRAME)
    waves = [sound.decode(part) for part in parts(codes, wish, True)]
    jumps = torch.cat(waves).diff().abs()
    borders = torch.tensor([len(wave) for wave in waves]).cumsum(0)[:-1] - 1
    borders = borders[(borders >= 0) & (borders < len(jumps))]
    assume(len(borders))
    own = decoder.decode(codes[None])[0].diff().abs().max()
    assert jumps[borders].max() <= own


def test_windowed_decoder_is_exact_while_the_window_holds_everything() -> None:
    codes = torch.from_numpy(random_codes(1, 37, 3))[0]
    decoder, wish = tiny_model().decoder, options(emit_every_frames=5)
    assert wish.windows is not None
    with torch.inference_mode():
        sound = WindowedChunkDecoder(
            lambda window: decoder.decode(window[None])[0], wish.windows, codes[:, :12].T, FRAME
        )
        wave = torch.cat([sound.decode(part) for part in parts(codes[:, 12:], wish, False)])
        whole = decoder.decode(codes[None])[0][12 * FRAME :]
    torch.testing.assert_close(wave[512:-512], whole[512:-512], rtol=0, atol=1e-4)
    rise = 0.5 * (1 - torch.cos(torch.linspace(0, torch.pi, 512)))
    torch.testing.assert_close(wave[:512], whole[:512] * rise, rtol=0, atol=1e-4)
    torch.testing.assert_close(wave[-512:], whole[-512:] * rise.flip(0), rtol=0, atol=1e-4)


def test_windowed_decoder_without_overlap_does_not_fade() -> None:
    wish = options(emit_every_frames=2, decode_window_frames=2, overlap_samples=0)
    assert wish.windows is not None
    sound = WindowedChunkDecoder(ramp, wish.windows, None, FRAME)
    waves = [sound.decode(part) for part in parts(counted(0, 5), wish, False)]
    assert [len(wave) for wave in waves] == [2 * FRAME, 2 * FRAME, FRAME]
    assert torch.equal(torch.cat(waves), torch.arange(5 * FRAME).double())


def test_cross_fade_of_equal_waves_changes_nothing() -> None:
    wave = torch.randn(3000)
    torch.testing.assert_close(cross_fade(wave[:700], wave), wave)
    one, two = torch.ones(512), torch.zeros(600)
    mixed = cross_fade(one, two)
    assert mixed[0] == 1
    assert mixed[511] == 0
    assert (mixed.diff() <= 0).all()
    assert fade_in(torch.ones(100), 512)[-1] == 1  # a speech shorter than its fade


@pytest.mark.parametrize("cut", [FinishReason.TOO_LONG, FinishReason.LOOP])
def test_windowed_decoder_fades_out_runaway_speech(cut: FinishReason) -> None:
    decoder, codes = tiny_model().decoder, torch.from_numpy(random_codes(1, 6, 8))[0]
    whole = ChunkOutput(1, codes, torch.empty(0), ended=True, cut=cut)
    wish = options(overlap_samples=0)
    assert wish.windows is not None
    windowed = WindowedChunkDecoder(lambda window: decoder.decode(window[None])[0], wish.windows, None, FRAME).decode(
        whole
    )
    stepped = StreamingChunkDecoder(decoder, None).decode(whole)
    torch.testing.assert_close(windowed, stepped, rtol=0, atol=1e-4)
    plain = StreamingChunkDecoder(decoder, None).decode(
        ChunkOutput(1, codes, torch.empty(0), ended=True, cut=FinishReason.MAX_NEW_TOKENS)
    )
    assert torch.equal(stepped[: 5 * FRAME], plain[: 5 * FRAME])
    assert stepped[-1].abs() < 1e-6 < plain[-1].abs()


def test_async_decode_keeps_order_and_raises_errors() -> None:
    class Echo:
        def decode(self, part: ChunkOutput) -> Tensor:
            if part.job == 3:
                raise ArithmeticError("decoder")
            return torch.full((1,), float(part.job))

    def rounds(last: int) -> Iterator[list[ChunkOutput | None]]:
        for job in range(last):
            yield [None, ChunkOutput(job, counted(0, 1), torch.empty(0))]

    sounds, entered = [Echo(), Echo()], []
    beside = list(decode_outputs_in_thread(rounds(3), sounds, lambda: entered.append(1)))
    assert [[wave.tolist() for wave in each] for each in beside] == [[[], [0.0]], [[], [1.0]], [[], [2.0]]]
    assert entered == [1]
    assert [[wave.tolist() for wave in each] for each in decode_outputs(rounds(3), sounds)] == [
        [wave.tolist() for wave in each] for each in beside
    ]
    heard = decode_outputs_in_thread(rounds(6), sounds, lambda: None)
    assert [next(heard)[1].item() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ArithmeticError, match="decoder"):
        next(heard)


def test_close_does_not_wait_for_async_decode() -> None:
    """The collector may drop a stream in a thread that holds what the decoding waits for, or in the decoding's own."""
    decoding, allowed = threading.Event(), threading.Event()

    class Slow:
        def decode(self, part: ChunkOutput) -> Tensor:
            if part.job:
                decoding.set()
                allowed.wait(30)
            return torch.empty(0)

    rounds = ([ChunkOutput(job, counted(0, 1), torch.empty(0))] for job in range(3))
    heard = decode_outputs_in_thread(rounds, [Slow()], lambda: None)
    next(heard)
    assert decoding.wait(30)
    leaving = threading.Thread(target=heard.close)
    leaving.start()
    leaving.join(5)
    left = not leaving.is_alive()
    allowed.set()
    leaving.join(30)
    assert left
