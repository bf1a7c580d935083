"""Streaming keywords: what cannot be is refused with its reason, and phases come as they are asked for."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.stream_options import StreamOptions
from engine.prompt.sampling_params import SamplingError
from engine.scheduler.chunking import EmissionState, TwoPhasePlan

WINDOWED = {"windowed_decode": True}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"emit_every_frames": 0}, "emit_every_frames must be between 1"),
        ({"emit_every_frames": 2.5}, "whole number"),
        ({"emit_every_frames": True}, "whole number"),
        ({"emit_every_frames": None}, "whole number"),
        ({"decode_window_frames": 0}, "decode_window_frames"),
        ({"decode_window_frames": 10**6}, "between 1 and 1500"),
        ({"overlap_samples": -1}, "overlap_samples"),
        ({"max_frames": 0}, "max_frames"),
        ({"first_chunk_emit_every": -5}, "first_chunk_emit_every"),
        ({"first_chunk_frames": 0}, "first_chunk_frames"),
        ({"async_decode": 1}, "async_decode must be True or False"),
        ({"windowed_decode": "yes"}, "windowed_decode must be True or False"),
        ({"first_chunk_emit_every": 49}, "the first phase would be over"),
        (WINDOWED | {"emit_every_frames": 80}, "decode_window_frames=80 must be at least 81"),
        (WINDOWED | {"first_chunk_emit_every": 48}, "first_chunk_decode_window=48 must be at least 49"),
        (WINDOWED | {"emit_every_frames": 1, "overlap_samples": 1921}, "more than a chunk of 1 frames"),
    ],
)
def test_stream_options_reject_invalid_values(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StreamOptions(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {},
        WINDOWED,
        {"emit_every_frames": 100},  # window sizes are not checked without windowed_decode
        WINDOWED | {"emit_every_frames": 80, "overlap_samples": 0},
        WINDOWED | {"emit_every_frames": 79},
        {"emit_every_frames": 12, "first_chunk_emit_every": 5},  # the streaming fork's example
        {"max_frames": 3, "emit_every_frames": 8},
    ],
)
def test_stream_options_accept_valid_values(given: dict[str, object]) -> None:
    StreamOptions(**given)  # type: ignore[arg-type]


@given(st.integers(0, 40), st.integers(1, 100), st.integers(1, 40))
def test_two_phase_plan_keeps_first_phase_until_its_frames_are_sent(first: int, frames: int, steady: int) -> None:
    plan = TwoPhasePlan(first, frames, steady)
    sizes = [plan.frames(chunk) for chunk in range(60)]
    for size, before in zip(sizes, [0, *accumulate(sizes)], strict=False):
        assert size == (first if first and before < frames else steady)
    moment = EmissionState(0, sizes[0] - 1, False, 0.0, 0.0, 0.0)
    assert plan.due(moment) == 0
    assert plan.due(EmissionState(0, sizes[0] + 3, False, 0.0, 0.0, 0.0)) == sizes[0]


def test_two_phase_plan_of_any_length_uses_constant_memory() -> None:
    assert StreamOptions(first_chunk_emit_every=1, first_chunk_frames=2**31 - 1).emission.frames(10**9) == 1


def test_sampling_resolves_eos_token_id() -> None:
    assert StreamOptions().sampling({"eos_token_id": 5}, {}, 3072).end_ids == (5,)
    assert StreamOptions().sampling({"eos_token_id": [5, 2157]}, {}, 3072).end_ids == (5, 2157)
    assert StreamOptions().sampling({}, {"eos_token_id": 151645}, 3072).end_ids == ()  # the file's is a text id
    for wrong in (151673, [5, 3072]):
        with pytest.raises(SamplingError, match="below 3072"):
            StreamOptions().sampling({"eos_token_id": wrong}, {}, 3072)
    with pytest.raises(SamplingError, match="whole number"):
        StreamOptions().sampling({"eos_token_id": "5"}, {}, 3072)
