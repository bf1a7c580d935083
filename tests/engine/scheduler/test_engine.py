"""The engine through its own door: jobs together, apart, held, cancelled, streamed in; always the same codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduler.sequence import FinishReason, RunawayLimits
from tests.engine.support.engine_harness import TEXTS, Speaker, alone, joined, same
from tests.engine.support.tiny_models import tiny_model

LAGS = pytest.mark.parametrize("lag", [0, 1])


@LAGS
def test_step_decodes_codes_exactly(lag):
    codes, wave = alone(TEXTS[0], lag)
    assert codes.shape == (16, 13)
    assert len(wave) == 1920 * 13
    with torch.inference_mode():
        whole = tiny_model("custom_voice").decoder.decode(codes[None])[0]
    assert (wave - whole).abs().max() < 1e-4


@LAGS
def test_batched_jobs_equal_single_jobs_and_reuse_slots(lag):
    speaker = Speaker(slots=2, lag=lag)
    for job, text in enumerate(TEXTS * 2):
        speaker.start(job, text, speaker="vivian" if job % 2 else "ryan")
    together = speaker.finish()
    for job, text in enumerate(TEXTS * 2):
        same(together[job], alone(text, speaker="vivian" if job % 2 else "ryan"))
    assert speaker.engine.jobs == ()


@LAGS
def test_emission_plan_changes_chunking_not_audio(lag):
    sizes = {}
    for plan in ((1,), (1, 2, 4), (25,)):
        speaker = Speaker(lag=lag)
        speaker.start(1, TEXTS[0], sizes=plan)
        parts = speaker.rest()
        sizes[plan] = [p.codes.shape[1] for p in parts if p.codes.shape[1]]
        same(joined(parts), alone(TEXTS[0]))
    assert sizes == {(1,): [1] * 13, (1, 2, 4): [1, 2, 4, 4, 2], (25,): [13]}


@settings(max_examples=8, deadline=None)
@given(st.data(), st.sampled_from([0, 1]))
def test_streamed_text_has_same_codes_for_any_split(data, lag):
    text = data.draw(st.sampled_from([*TEXTS, "one two three, 你好吗？四五六 and e\u0301 한국어 " * 2]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    speaker = Speaker(lag=lag)
    speaker.engine.add(1, speaker.utterance())
    parts = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if 1 in speaker.engine.jobs:  # it may reach its limit before the text ends
            speaker.engine.append_text(1, text[start:end])
        for _ in range(data.draw(st.integers(0, 3))):
            parts += speaker.engine.step()
    if 1 in speaker.engine.jobs:
        speaker.engine.end_text(1)
    same(joined(parts + speaker.rest()), alone(text))


@LAGS
def test_job_blocked_on_text_does_not_block_others(lag):
    speaker = Speaker(lag=lag)
    speaker.engine.add(1, speaker.utterance())
    speaker.engine.append_text(1, "hello the")
    speaker.start(2, TEXTS[1])
    done = [p.job for _ in range(30) for p in speaker.engine.step() if p.ended]
    assert done == [2]
    assert not speaker.engine.busy
    speaker.engine.append_text(1, " door")
    speaker.engine.end_text(1)
    assert speaker.engine.busy
    speaker.finish()
    assert speaker.engine.jobs == ()


@LAGS
def test_paused_job_generates_nothing_until_resumed(lag):
    speaker = Speaker(lag=lag)
    speaker.start(1, TEXTS[0])
    first = speaker.engine.step()
    speaker.engine.hold(1, True)
    first += speaker.rest()
    assert sum(progress.codes.shape[1] for progress in first) == 1
    assert speaker.engine.step() == []
    speaker.engine.hold(1, False)
    same(joined(first + speaker.rest()), alone(TEXTS[0]))


@LAGS
def test_cancel_frees_slot_without_changing_other_jobs(lag):
    speaker = Speaker(slots=1, lag=lag)
    speaker.start(1, TEXTS[0])
    speaker.start(2, TEXTS[1])
    speaker.engine.step()
    speaker.engine.cancel(1)
    speaker.engine.cancel(99)
    same(speaker.finish()[2], alone(TEXTS[1]))


@LAGS
def test_empty_job_ends_without_audio(lag):
    speaker = Speaker(lag=lag)
    speaker.start(1, "")
    (progress,) = speaker.engine.step()
    assert progress.ended
    assert progress.wave.shape == (0,)
    assert speaker.engine.jobs == ()


def test_empty_job_ends_while_all_slots_wait_for_text():
    speaker = Speaker(slots=1)
    speaker.engine.add(1, speaker.utterance())
    speaker.engine.append_text(1, "hello world, ")
    while speaker.engine.busy:
        speaker.engine.step()
    speaker.start(2, "")
    assert [(progress.job, progress.ended) for progress in speaker.rest()] == [(2, True)]


@LAGS
def test_runaway_speech_ends_with_fade_out(lag):
    speaker = Speaker(lag=lag, guards=RunawayLimits(frames_per_text_id=1, min_frames=6))
    speaker.start(1, "hi", sizes=(25,), max_new_tokens=100)
    parts = speaker.rest()
    assert parts[-1].cut is FinishReason.TOO_LONG
    wave = torch.cat([p.wave for p in parts])
    assert len(wave) == 1920 * 7
    assert wave[-1].abs() < 1e-6


@LAGS
def test_full_slot_ends_its_job(lag):
    speaker = Speaker(max_positions=24, lag=lag)
    speaker.start(1, "hi there", max_new_tokens=100)
    progress = [p for _ in range(30) for p in speaker.engine.step()][-1]
    assert progress.ended
    assert progress.cut is FinishReason.TOO_LONG


@LAGS
def test_prompt_longer_than_slot_is_rejected(lag):
    speaker = Speaker(max_positions=24, lag=lag)
    speaker.start(1, "many words " * 20, streaming=False)
    (progress,) = speaker.engine.step()
    assert progress.ended
    assert "a slot has 24: shorten the text" in str(progress.failed)
    speaker.start(2, "hi", streaming=True)
    assert 2 in speaker.finish()
