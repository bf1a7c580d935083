"""A job's text arrives in order and on time, and its speech ends where it should."""

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.prompt.languages import PromptError
from engine.prompt.planner import CloneVoice, PromptPlan, Reference
from engine.scheduler.sequence import FinishReason, LoopDetector, RunawayLimits, SampleOutcome, Sequence
from tests.engine.support.prompts import EOS, PAD, planner

CODEC_EOS = 2150
OFF = RunawayLimits(loop_frames=0)


def clone_plan(words: int = 0, frames: int = 0, streaming: bool = True) -> PromptPlan:
    reference = Reference("x" * words, frames, "codes") if words else None
    return planner("base").clone(CloneVoice("voice", reference), streaming=streaming)


def make(plan: PromptPlan | None = None, max_new_tokens: int = 2048, guards: RunawayLimits = OFF) -> Sequence:
    return Sequence(1, plan or clone_plan(), max_new_tokens, {CODEC_EOS}, guards)


def begun(ids: list[int], **options: object) -> Sequence:
    sequence = make(**options)  # type: ignore[arg-type]
    sequence.append(ids)
    sequence.end_text()
    sequence.begin()
    return sequence


def test_next_text_yields_text_end_padding() -> None:
    sequence = begun([10, 11, 12])
    assert [sequence.next_text() for _ in range(5)] == [11, 12, EOS, PAD, PAD]
    assert not sequence.starved
    assert sequence.text_ids == 3


def test_late_text_blocks_sequence_without_padding() -> None:
    sequence = make()
    assert not sequence.can_begin
    sequence.append([10])
    assert sequence.can_begin
    assert sequence.begin().trailing == ()
    assert sequence.starved
    with pytest.raises(AssertionError, match="starved"):
        sequence.next_text()
    sequence.append([11])
    assert (sequence.starved, sequence.next_text(), sequence.starved) == (False, 11, True)
    sequence.end_text()
    sequence.end_text()
    assert [sequence.next_text() for _ in range(3)] == [EOS, PAD, PAD]
    with pytest.raises(AssertionError, match="text after its end"):
        sequence.append([12])


def test_empty_text_raises_at_its_end() -> None:
    sequence = make()
    sequence.end_text()
    assert sequence.can_begin
    with pytest.raises(PromptError, match="the text is empty"):
        sequence.begin()


@given(
    st.lists(st.lists(st.integers(1, 99), max_size=4), max_size=8),
    st.integers(0, 5),
    st.integers(1, 9),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_next_text_is_independent_of_timing(
    parts: list[list[int]], words: int, frames: int, streaming: bool, rng: random.Random
) -> None:
    """However text and steps interleave, the prompt and the ids of all steps are those of the whole text."""
    text = [number for part in parts for number in part]
    if not text:
        return
    plan = clone_plan(words, frames, streaming)
    whole = plan.begin(text, True)
    sequence, prompt, read = make(plan), None, []
    for part in [*parts, None]:
        if part is None:
            sequence.end_text()
        else:
            sequence.append(part)
        if sequence.can_begin:
            prompt = sequence.begin()
        while prompt and not sequence.starved and rng.random() < 0.7 and len(read) < 50:
            read.append(sequence.next_text())
    assert prompt is not None
    while len(read) < 60:
        read.append(sequence.next_text())
    assert prompt.head == whole.head
    assert read == ([*whole.trailing] + [PAD] * 60)[:60]
    assert sequence.text_ids == len(text)


def test_max_new_tokens_yields_one_frame_less_than_samples() -> None:
    sequence = begun([10], max_new_tokens=14)
    verdicts = [sequence.accept(5) for _ in range(14)]
    assert verdicts == [SampleOutcome.FRAME] * 13 + [SampleOutcome.CUT]
    assert (sequence.frames, sequence.samples, sequence.cut) == (13, 14, FinishReason.MAX_NEW_TOKENS)
    with pytest.raises(AssertionError, match="is over"):
        sequence.accept(5)


def test_eos_adds_no_frame_and_is_not_a_cut() -> None:
    sequence = begun([10, 11], max_new_tokens=3)
    assert [sequence.accept(code) for code in (5, 6, CODEC_EOS)] == [
        SampleOutcome.FRAME,
        SampleOutcome.FRAME,
        SampleOutcome.END,
    ]
    assert (sequence.frames, sequence.cut) == (2, None)


@pytest.mark.parametrize(("text_ids", "frames"), [(1, 192), (9, 192), (10, 200), (50, 1000)])
def test_runaway_limit_cuts_speech_longer_than_its_text(text_ids: int, frames: int) -> None:
    sequence, code = begun([10] * text_ids, guards=OFF), 0
    while sequence.accept(code % 2048) is SampleOutcome.FRAME:
        code += 1
    assert (sequence.frames, sequence.cut) == (frames, FinishReason.TOO_LONG)


def test_frame_limit_grows_with_text() -> None:
    sequence = make(guards=RunawayLimits(frames_per_text_id=2, min_frames=4, loop_frames=0))
    sequence.append([1, 2])
    sequence.begin()
    assert [sequence.accept(1) for _ in range(4)] == [SampleOutcome.FRAME] * 4
    sequence.append([3])
    assert [sequence.accept(1) for _ in range(3)] == [SampleOutcome.FRAME, SampleOutcome.FRAME, SampleOutcome.CUT]


@pytest.mark.parametrize("period", [1, 2, 5, 12, 24])
def test_repetition_limit_cuts_exact_loop(period: int) -> None:
    rng = random.Random(period)
    circle = rng.sample(range(2048), period)
    sequence = begun([10] * 100, guards=RunawayLimits())
    for _ in range(200):
        assert sequence.accept(rng.randrange(2048)) is SampleOutcome.FRAME
    after = next(n for n in range(1, 1000) if sequence.accept(circle[n % period]) is not SampleOutcome.FRAME)
    assert sequence.cut is FinishReason.LOOP
    assert after <= 128 + 4 + period


def test_repetition_limit_cuts_ragged_loop() -> None:
    """Sampling repeats a phrase with slips: one code in twenty is another."""
    rng, detector = random.Random(5), LoopDetector(RunawayLimits(loop_distinct=0.5))
    circle = rng.sample(range(2048), 12)
    codes = [rng.randrange(2048) if rng.random() < 0.05 else circle[n % 12] for n in range(400)]
    assert any(detector.add(code) for code in codes)


def test_pauses_and_refrains_are_not_loops() -> None:
    """Four seconds of one code in each ten, or a line repeated three times, are not cut."""
    rng, detector = random.Random(6), LoopDetector(RunawayLimits())
    paused = [code for _ in range(6) for code in [*(rng.randrange(2048) for _ in range(78)), *([7] * 50)]]
    line = [rng.randrange(2048) for _ in range(60)]
    assert not any(detector.add(code) for code in [*paused, *line, *line, *line])


@given(st.lists(st.integers(0, 3), max_size=120), st.integers(1, 20), st.integers(1, 4), st.floats(0, 1))
def test_loop_detector_counts_its_window(codes: list[int], window: int, size: int, share: float) -> None:
    detector = LoopDetector(RunawayLimits(loop_frames=window, loop_ngram=size, loop_distinct=share))
    for end in range(1, len(codes) + 1):
        ngrams = [tuple(codes[at : at + size]) for at in range(end - size + 1)][-window:]
        looped = len(ngrams) == window and len(set(ngrams)) <= share * window
        assert detector.add(codes[end - 1]) == looped


def test_sequence_does_not_import_torch() -> None:
    code = "import sys, engine.scheduler.sequence; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
