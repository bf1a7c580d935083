"""Text queue and end-of-speech detection of one job.

Pure bookkeeping on the host. The device only knows slots and tensors; every decision about a job is made here.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..model.config import TalkerConfig
from ..prompt.planner import Prompt, PromptPlan


class SampleOutcome(enum.Enum):
    """Meaning of a group-0 sample: a frame of speech, or the end of speech, which does not produce a frame."""

    FRAME = "frame"
    END = "end"
    CUT = "cut"


class FinishReason(enum.StrEnum):
    """Reason why the engine ended a job before the model did."""

    MAX_NEW_TOKENS = "max_new_tokens"
    TOO_LONG = "too_long"
    LOOP = "loop"


@dataclass(frozen=True, slots=True)
class RunawayLimits:
    """Limits that only runaway speech reaches. Ordinary speech takes 3 to 6 frames per text id.

    A loop is a window of `loop_frames` n-grams of group-0 codes, most of which are repeats; 0 disables the check.
    """

    frames_per_text_id: int = 20
    min_frames: int = 192
    loop_frames: int = 128
    loop_ngram: int = 4
    loop_distinct: float = 0.25

    def max_frames(self, text_ids: int) -> int:
        return max(self.min_frames, self.frames_per_text_id * text_ids)


class LoopDetector:
    """Detect loops by counting the distinct n-grams of the last frames: repeating speech has few."""

    def __init__(self, guards: RunawayLimits) -> None:
        self._guards = guards
        self._latest: deque[int] = deque(maxlen=max(guards.loop_ngram, 1))
        self._ngrams: deque[tuple[int, ...]] = deque()
        self._seen: Counter[tuple[int, ...]] = Counter()

    def add(self, code: int) -> bool:
        """Add one frame's group-0 code; return True if the speech is looping."""
        self._latest.append(code)
        if not self._guards.loop_frames or len(self._latest) < self._guards.loop_ngram:
            return False
        ngram = tuple(self._latest)
        self._ngrams.append(ngram)
        self._seen[ngram] += 1
        if len(self._ngrams) > self._guards.loop_frames:
            self._forget(self._ngrams.popleft())
        full = len(self._ngrams) == self._guards.loop_frames
        return full and len(self._seen) <= self._guards.loop_distinct * self._guards.loop_frames

    def _forget(self, ngram: tuple[int, ...]) -> None:
        self._seen[ngram] -= 1
        if not self._seen[ngram]:
            del self._seen[ngram]


class Sequence:
    """One job from its first text id to its last frame.

    Text is appended as it arrives. Once `can_begin` is true, `begin` returns the prompt; after that, each step consumes
    one `next_text`. A job whose text is late is `starved` and waits, because padding would end its sentence.
    """

    def __init__(
        self, job: int, plan: PromptPlan, max_new_tokens: int, ends: Collection[int], guards: RunawayLimits
    ) -> None:
        self.job = job
        self.plan = plan
        self.frames = 0
        self.samples = 0
        self.text_ids = 0
        self.outcome = SampleOutcome.FRAME
        self.cut: FinishReason | None = None
        self._max_new_tokens = max_new_tokens
        self._ends = ends
        self._guards = guards
        self._loop = LoopDetector(guards)
        self._pending: deque[int] = deque()
        self._text_ended = False
        self._begun = False

    def append(self, ids: Iterable[int]) -> None:
        """Append newly available text ids."""
        assert not self._text_ended, f"job {self.job}: text after its end"
        before = len(self._pending)
        self._pending.extend(ids)
        self.text_ids += len(self._pending) - before

    def end_text(self) -> None:
        """Mark the text as complete: tts_eos follows the pending ids. Further calls have no effect."""
        if self._begun and not self._text_ended:
            self._pending.append(self.plan.ids.tts_eos)
        self._text_ended = True

    @property
    def can_begin(self) -> bool:
        return not self._begun and self.plan.ready(len(self._pending), self._text_ended)

    def begin(self) -> Prompt:
        """Convert the text known so far into the prompt. Raise PromptError if the text has ended and is empty."""
        assert self.can_begin, f"job {self.job} cannot begin"
        prompt = self.plan.begin(list(self._pending), self._text_ended)
        self._pending = deque(prompt.trailing)
        self._begun = True
        return prompt

    @property
    def prompt_positions(self) -> int:
        """Number of prompt positions for the text known so far."""
        return self.plan.positions(len(self._pending), self._text_ended)

    @property
    def starved(self) -> bool:
        """True if the next step must wait for text."""
        return self._begun and not self._pending and not self._text_ended

    def next_text(self) -> int:
        """Return the text id of the next step: the remaining text, then tts_eos, then tts_pad indefinitely."""
        assert self._begun, f"job {self.job} has not begun"
        assert not self.starved, f"job {self.job} is starved"
        return self._pending.popleft() if self._pending else self.plan.ids.tts_pad

    def accept(self, code: int) -> SampleOutcome:
        """Process the next group-0 sample. Only FRAME yields a frame; after any other outcome the job is over.

        As in the reference, `max_new_tokens` samples without an end token yield one frame fewer.
        """
        assert self.outcome is SampleOutcome.FRAME, f"job {self.job} is over"
        self.samples += 1
        if code in self._ends:
            self.outcome = SampleOutcome.END
        elif cut := self._reason_to_cut(code):
            self.outcome, self.cut = SampleOutcome.CUT, cut
        else:
            self.frames += 1
        return self.outcome

    def cut_short(self, reason: FinishReason) -> None:
        """End the job for a reason that only the engine knows."""
        self.outcome, self.cut = SampleOutcome.CUT, reason

    def _reason_to_cut(self, code: int) -> FinishReason | None:
        if self.samples >= self._max_new_tokens:
            return FinishReason.MAX_NEW_TOKENS
        if self.frames >= self._guards.max_frames(self.text_ids):
            return FinishReason.TOO_LONG
        return FinishReason.LOOP if self._loop.add(code) else None


def end_ids(talker: TalkerConfig) -> frozenset[int]:
    """Return the group-0 ids that end speech: those of the streaming fork's list that are codec ids.

    The others are text ids; if their numbers occur among the codes at all, they denote speech. Only codec_eos is ever
    sampled: the sampler masks all other special tokens, whether they end speech or not.
    """
    return frozenset(each for each in (talker.ids.eos, talker.ids.think_eos) if each < talker.vocab_size)
