"""Launching steps ahead of their results changes timing only, never the audio."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from engine.runtime.model_runner import PendingAudio, PendingCodes
from engine.runtime.slot_state import SlotState, bucket
from engine.scheduler.chunking import BufferedPlan, Emission, EmissionPlan
from engine.scheduler.engine import ChunkOutput
from engine.scheduler.sequence import FinishReason, RunawayLimits
from tests.engine.support.engine_harness import TEXTS, Speaker, Spoken, alone, joined, same
from tests.engine.support.tiny_models import tiny_model

LAGS = pytest.mark.parametrize("lag", [0, 1])
EOS = 2150


class Scripted:
    """A frame whose group 0 is the model's end in some rows."""

    def __init__(self, made: PendingCodes, ends: list[bool]) -> None:
        self._made, self._ends = made, ends

    def codes(self) -> list[list[int]]:
        rows = zip(self._made.codes(), self._ends, strict=True)
        return [[EOS, *row[1:]] if end else row for row, end in rows]


class Late:
    """Audio that is never ready before it is waited for."""

    ready = False

    def __init__(self, wave: PendingAudio) -> None:
        self.read: Callable[[], torch.Tensor] = wave.read


def ends_after(speaker: Speaker, frames: int) -> None:
    """Let the model end each job after `frames` frames."""
    real, launched = speaker.runner.advance, [0] * speaker.runner.slots
    join = speaker.runner.prefill

    def entering(entries: Any) -> None:
        for entry in entries:
            launched[entry.slot] = 0
        join(entries)

    def advance(slots: Any, texts: Any) -> Scripted:
        for slot in slots:
            launched[slot] += 1
        return Scripted(real(slots, texts), [launched[slot] == frames + 1 for slot in slots])

    speaker.runner.prefill, speaker.runner.advance = entering, advance  # type: ignore[method-assign, assignment]


def late(speaker: Speaker) -> None:
    real = speaker.runner.decode
    speaker.runner.decode = lambda *given, **how: Late(real(*given, **how))  # type: ignore[method-assign, assignment, return-value]


@cache
def spoken(text: str, speaker: str = "ryan", seed: int = 7) -> Spoken:
    return alone(text, 0, speaker=speaker, seed=seed)


def head(whole: Spoken, frames: int) -> Spoken:
    return whole[0][:, :frames], whole[1][: 1920 * frames]


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 2, 4), (4,), (25,)])
def test_end_of_speech_at_any_frame_is_exact_and_slot_is_reusable(lag: int, sizes: tuple[int, ...]) -> None:
    for frames in (0, 1, 2, 3, 4, 7):  # every border of a chunk, and places between
        speaker = Speaker(slots=1, lag=lag)
        ends_after(speaker, frames)
        for job, text in enumerate(TEXTS[:2]):
            speaker.start(job, text, sizes=sizes)
        found: dict[int, list[ChunkOutput]] = {0: [], 1: []}
        for progress in speaker.rest():
            found[progress.job].append(progress)
        for job, parts in found.items():
            same(joined(parts), head(spoken(TEXTS[job]), frames))
            assert [part.ended for part in parts] == [False] * (len(parts) - 1) + [True]
            assert not any(len(part.wave) == 0 for part in parts[:-1])


def play(lag: int, seed: int, slow: bool) -> dict[int, Spoken | None]:
    """Run random jobs: text arrives in pieces, some jobs are paused, some are cancelled."""
    chance, speaker = random.Random(seed), Speaker(slots=2, lag=lag)
    if slow:
        late(speaker)
    engine, texts, parts = speaker.engine, dict[int, list[str]](), dict[int, list[ChunkOutput]]()
    left: set[int] = set()
    for turn in range(60):
        if turn % 9 == 0:
            job = turn // 9
            speaker.engine.add(job, speaker.utterance(("ryan", "vivian")[job % 2], sizes=(1, 2, 3), seed=job))
            text = TEXTS[job % 3]
            middle = chance.randrange(len(text))
            texts[job], parts[job] = [text[:middle], text[middle:]], []
        for job in [job for job in texts if job in engine.jobs]:
            if texts[job] and chance.random() < 0.3:
                engine.append_text(job, texts[job].pop(0))
                if not texts[job]:
                    engine.end_text(job)
            engine.hold(job, chance.random() < 0.2)
            if chance.random() < 0.01:
                engine.cancel(job)
                left.add(job)
        for progress in engine.step():
            parts[progress.job].append(progress)
    for job in engine.jobs:
        engine.hold(job, False)
        for piece in texts[job]:
            engine.append_text(job, piece)
        engine.end_text(job)
    for progress in speaker.rest():
        parts[progress.job].append(progress)
    assert engine.jobs == ()
    return {job: None if job in left else joined(got) for job, got in parts.items()}


@LAGS
@pytest.mark.parametrize("slow", [False, True])
def test_jobs_in_any_order_have_the_audio_of_single_jobs(lag: int, slow: bool) -> None:
    for seed in range(2):
        for job, got in play(lag, seed, slow).items():
            if got is not None:
                same(got, spoken(TEXTS[job % 3], ("ryan", "vivian")[job % 2], job))


def test_step_waits_for_first_audio_only() -> None:
    speaker = Speaker(lag=1)
    late(speaker)
    speaker.start(1, TEXTS[0], sizes=(1,))
    assert speaker.engine.step() == []  # its frame is launched
    assert [progress.codes.shape[1] for progress in speaker.engine.step()] == [1]
    assert speaker.engine.step() == []
    speaker.engine.hold(1, True)
    assert speaker.engine.busy
    assert [progress.codes.shape[1] for progress in speaker.rest()] == [1, 1]
    assert not speaker.engine.busy


def test_decode_is_urgent_for_first_audio_only() -> None:
    speaker, orders = Speaker(lag=1), list[tuple[list[int], bool]]()
    real = speaker.runner.decode

    def decode(slots: list[int], frames: int, urgent: bool) -> PendingAudio:
        orders.append((slots, urgent))
        return real(slots, frames, urgent)

    speaker.runner.decode = decode  # type: ignore[method-assign, assignment]
    speaker.start(1, TEXTS[0], sizes=(1,))
    speaker.engine.step()
    speaker.engine.step()
    speaker.start(2, TEXTS[1], sizes=(2,))
    for _ in range(3):
        speaker.engine.step()
    assert orders == [([0], True), ([0], False), ([0], False), ([0], False), ([1], True), ([0], False)]


@LAGS
def test_cancel_drops_frame_in_flight(lag: int) -> None:
    speaker = Speaker(slots=1, lag=lag)
    speaker.start(1, TEXTS[0])
    for _ in range(3):
        speaker.engine.step()
    speaker.engine.cancel(1)
    speaker.start(1, TEXTS[1], seed=3)  # the same number, the same slot
    same(joined(speaker.rest()), spoken(TEXTS[1], seed=3))


def test_job_requests_text_only_without_frames_in_flight() -> None:
    speaker = Speaker(lag=1)
    speaker.engine.add(1, speaker.utterance(sizes=(1,)))
    assert speaker.engine.wants_text(1)
    speaker.engine.append_text(1, "hello the")
    speaker.engine.step()
    while speaker.engine.busy:
        assert not speaker.engine.wants_text(1)
        speaker.engine.step()
    assert speaker.engine.wants_text(1)


@LAGS
@pytest.mark.parametrize("sizes", [(1,), (3,), (25,)])
def test_runaway_fade_out_ends_on_the_last_frame(lag: int, sizes: tuple[int, ...]) -> None:
    speaker = Speaker(lag=lag, guards=RunawayLimits(frames_per_text_id=1, min_frames=6))
    speaker.start(1, TEXTS[0], sizes=sizes, max_new_tokens=100)
    parts = speaker.rest()
    wave = torch.cat([part.wave for part in parts])
    frames = len(wave) // 1920
    assert parts[-1].cut is FinishReason.TOO_LONG
    assert len(parts[-1].wave)
    assert wave[-1].abs() < 1e-6
    whole = alone(TEXTS[0], max_new_tokens=frames + 1)[1]
    assert (wave[:-1920] - whole[:-1920]).abs().max() < 1e-4


@LAGS
def test_prefill_out_of_memory_fails_one_job(lag: int) -> None:
    speaker = Speaker(lag=lag)
    speaker.start(1, TEXTS[0])
    parts = speaker.engine.step()
    real = speaker.runner.prefill

    def join(entries: Any) -> None:
        if any(len(entry.prompt.body) > 5 for entry in entries):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        real(entries)

    speaker.runner.prefill = join  # type: ignore[method-assign]
    speaker.start(2, TEXTS[1], streaming=False)
    speaker.start(3, TEXTS[2])
    parts += speaker.rest()
    (failed,) = [part for part in parts if part.job == 2]
    assert failed.ended
    assert isinstance(failed.failed, MemoryError)
    for job in (1, 3):
        same(joined([part for part in parts if part.job == job]), spoken(TEXTS[job - 1]))
    assert len(speaker.engine._free) == 3


@pytest.mark.parametrize(("lag", "emission"), [(0, EmissionPlan((40,))), (1, EmissionPlan((40,))), (1, BufferedPlan())])
def test_chunks_exceed_codec_step_and_jobs_exceed_ring(lag: int, emission: Emission) -> None:
    speaker = Speaker(lag=lag, guards=RunawayLimits(loop_frames=0))
    speaker.start(1, TEXTS[0], emission=emission, max_new_tokens=142, min_new_tokens=142)
    parts = speaker.rest()
    sizes = [part.codes.shape[1] for part in parts if part.codes.shape[1]]
    assert sizes == [40, 40, 40, 21] if isinstance(emission, EmissionPlan) else (sizes[0], sum(sizes)) == (1, 141)
    codes, wave = joined(parts)
    with torch.inference_mode():
        whole = tiny_model("custom_voice").decoder.decode(codes[None])[0]
    assert (wave - whole).abs().max() < 1e-4


@LAGS
def test_trim_silence_drops_leading_silence(lag: int) -> None:
    speaker = Speaker(lag=lag)
    real = speaker.runner.decode
    heard: list[int] = []

    class Hushed:
        ready = True

        def __init__(self, wave: PendingAudio) -> None:
            self._wave, self._chunk = wave, len(heard)
            heard.append(1)

        def read(self) -> torch.Tensor:
            return self._wave.read() * (self._chunk >= 2)

    speaker.runner.decode = lambda *given, **how: Hushed(real(*given, **how))  # type: ignore[method-assign, assignment, return-value]
    speaker.start(1, TEXTS[0], sizes=(1,), trim_silence=True)
    codes, wave = joined(speaker.rest())
    whole = spoken(TEXTS[0])
    assert torch.equal(codes, whole[0])
    assert 1920 * 10 < len(wave) <= 1920 * 11
    assert (wave - whole[1][-len(wave) :]).abs().max() < 1e-4


def test_bucket_is_the_next_power_of_two() -> None:
    assert [bucket(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 32)] == [1, 2, 4, 4, 8, 8, 16, 32]


def test_padding_rows_change_no_slot() -> None:
    speaker = Speaker(slots=3, lag=1)
    speaker.start(1, TEXTS[0])
    speaker.engine.step()
    before = kept(speaker.runner.state)
    speaker.start(2, TEXTS[1])
    speaker.start(3, TEXTS[2])
    speaker.engine.hold(1, True)
    speaker.engine.step()
    speaker.engine.hold(2, True)
    speaker.engine.step()
    for old, new in zip(before, kept(speaker.runner.state), strict=True):
        assert torch.equal(old, new)


def kept(state: SlotState) -> list[torch.Tensor]:
    """What the first slot remembers."""
    return [tensor.clone() for tensor in (state.cache.kv[:, :, 0], state.frame[0], state.next[0], state.codes[0])]


@LAGS
def test_codes_only_job_emits_same_codes_in_same_chunks(lag: int) -> None:
    def chunks(codes_only: bool) -> list[ChunkOutput]:
        speaker = Speaker(lag=lag)
        utterance = replace(speaker.utterance(sizes=(1, 3, 30)), codes_only=codes_only)
        for job, each in ((1, utterance), (2, speaker.utterance("vivian"))):
            speaker.engine.add(job, each)
            speaker.engine.append_text(job, TEXTS[job])
            speaker.engine.end_text(job)
        return [part for part in speaker.rest() if part.job == 1]

    silent, heard = chunks(True), chunks(False)
    assert [part.codes.tolist() for part in silent] == [part.codes.tolist() for part in heard]
    assert [part.ended for part in silent] == [part.ended for part in heard]
    assert {len(part.wave) for part in silent} == {0}
    assert all(len(part.wave) == 1920 * part.codes.shape[1] for part in heard)
