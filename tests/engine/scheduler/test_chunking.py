"""Chunks are sent early enough to avoid gaps, and grow when there is time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.config import FRAME_S
from engine.scheduler.chunking import BufferedPlan, EmissionPlan, EmissionState, MovingAverage, Playback

NOW = EmissionState(chunk=0, waiting=1, starved=False, in_hand_s=0.0, step_s=0.004, delivery_s=0.006)
FRAMES = 400


def chunks(step_s: float, codec_s: float, slot: int | None = None) -> tuple[list[int], float]:
    """Return the chunk sizes of a long speech at constant speed and the total length of gaps in playback."""
    plan, playback, sizes, pauses_s, closed = BufferedPlan(), Playback(), [], 0.0, 0
    for made in range(1, FRAMES + 1):
        now_s = made * step_s
        in_hand_s = playback.in_hand_s(now_s, 0.0)
        offset = None if slot is None else closed + slot
        moment = EmissionState(len(sizes), made - closed, False, in_hand_s, step_s, codec_s, offset)
        if frames := plan.due(moment):
            arrives_s = now_s + codec_s
            if playback.ends_s is not None:
                pauses_s += max(arrives_s - playback.ends_s, 0.0)
            playback.receive(arrives_s, frames * FRAME_S)
            sizes.append(frames)
            closed += frames
    return sizes, pauses_s


@given(st.floats(0.001, 0.07), st.floats(0.0, 0.01), st.none() | st.integers(0, 63))
def test_buffered_plan_faster_than_real_time_has_no_gaps_and_growing_chunks(
    step_s: float, codec_s: float, slot: int | None
) -> None:
    sizes, pauses_s = chunks(step_s, codec_s, slot)
    assert sizes[0] == 1
    assert pauses_s == pytest.approx(0.0, abs=1e-9)
    assert max(sizes) == 8 or step_s > 0.06
    assert set(sizes) <= set(range(1, 9))


@given(st.floats(0.08, 5.0), st.floats(0.0, 5.0))
def test_buffered_plan_slower_than_real_time_sends_everything(step_s: float, codec_s: float) -> None:
    sizes, _ = chunks(step_s, codec_s)
    assert sizes[0] == 1
    assert max(sizes) <= 2
    assert sum(sizes) >= FRAMES - 8


def test_buffered_plan_second_chunk_is_large_on_fast_gpu() -> None:
    assert chunks(0.004, 0.006)[0][:3] == [1, 8, 8]
    assert chunks(0.04, 0.01)[0][:8] == [1, 1, 1, 2, 2, 4, 4, 8]


def test_buffered_plan_ends_largest_chunks_at_multiples_of_their_size() -> None:
    assert [chunks(0.004, 0.006, slot)[0][:3] for slot in (0, 3, 6, 7)] == [[1, 7, 8], [1, 4, 8], [1, 1, 8], [1, 8, 8]]


def test_buffered_plan_spreads_chunk_ends_of_neighbouring_slots_over_the_steps() -> None:
    ends = [{sum(sizes[:n]) for n in range(1, len(sizes))} for sizes in (chunks(0.004, 0.006, s)[0] for s in range(8))]
    assert [sum(step in jobs for jobs in ends) for step in range(9, 40)] == [1] * 31


def test_buffered_plan_sends_everything_when_blocked_on_text() -> None:
    patient = replace(NOW, waiting=3, in_hand_s=9.0)
    assert BufferedPlan().due(patient) == 0
    assert BufferedPlan().due(replace(patient, starved=True)) == 3
    assert BufferedPlan().due(replace(patient, waiting=0)) == 0
    assert BufferedPlan().due(replace(patient, in_hand_s=0.0)) == 2


def test_buffered_plan_sends_first_frame_without_estimates() -> None:
    assert BufferedPlan().due(replace(NOW, step_s=0.0, delivery_s=0.0)) == 1


def test_emission_plan_keeps_fixed_sizes() -> None:
    plan = EmissionPlan((1, 2, 4))
    assert [plan.frames(chunk) for chunk in range(5)] == [1, 2, 4, 4, 4]
    assert [plan.due(replace(NOW, chunk=1, waiting=waiting)) for waiting in (1, 2, 3)] == [0, 2, 2]


@pytest.mark.parametrize("plan", [EmissionPlan, BufferedPlan])
@pytest.mark.parametrize("sizes", [(), (0,), (1, -1)])
def test_plan_rejects_chunks_without_frames(plan: type[EmissionPlan], sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        plan(sizes)


def test_playback_restarts_after_underrun() -> None:
    playback = Playback()
    assert playback.in_hand_s(5.0, 1.0) == 0.0
    playback.receive(10.0, 1.0)
    assert playback.in_hand_s(10.5, 0.25) == pytest.approx(0.75)
    playback.receive(20.0, 1.0)
    assert playback.in_hand_s(20.25, 0.0) == pytest.approx(0.75)


def test_moving_average_weighs_newest_one_fifth() -> None:
    mean = MovingAverage()
    mean.add(1.0)
    assert mean.value_s == 1.0
    mean.add(2.0)
    assert mean.value_s == pytest.approx(1.2)
