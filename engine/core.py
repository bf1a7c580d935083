"""The engine: several sequences that advance together, join and leave between steps, and become audio as they go."""

from __future__ import annotations

import logging
import math
import secrets
from collections import deque
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .emission import EmissionPlan
from .model.streaming import CodecSnapshot
from .prompt import PromptPlan
from .runner import Entry, Runner, VoiceVectors
from .sampling_params import SamplingParams
from .sequence import Cut, Guards, Sequence, Verdict
from .tokens import TextTokenizer, TokenStream

log = logging.getLogger(__name__)

RUNAWAY = (Cut.TOO_LONG, Cut.LOOP)


@dataclass(frozen=True, slots=True)
class Utterance:
    """Everything about a job but its text."""

    plan: PromptPlan
    sampling: SamplingParams = field(default_factory=SamplingParams)
    voice: VoiceVectors = field(default_factory=VoiceVectors)
    primed: CodecSnapshot | None = None
    emission: EmissionPlan = field(default_factory=EmissionPlan)


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step made for one job: codes [16, n] and wave float32 [1920 · n], both on the host.

    `failed` says why a job could not even begin; it has ended then.
    """

    job: int
    codes: Tensor
    wave: Tensor
    ended: bool = False
    cut: Cut | None = None
    failed: str | None = None


@dataclass(slots=True, eq=False)
class _Job:
    utterance: Utterance
    sequence: Sequence
    text: TokenStream
    slot: int | None = None
    held: bool = False
    chunks: int = 0
    pending: list[list[int]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.sequence.verdict is not Verdict.FRAME

    @property
    def due_frames(self) -> int:
        """How many pending frames are to become audio now."""
        size = self.utterance.emission.frames(self.chunks)
        return len(self.pending) if self.over else size if len(self.pending) >= size else 0


class Engine:
    """Speaks jobs, `runner.slots` of them at once and the others after them. One thread drives it."""

    def __init__(self, runner: Runner, tokenizer: TextTokenizer, guards: Guards | None = None) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._guards = guards or Guards()
        self._eos = runner.model.config.talker.ids.eos
        self._jobs: dict[int, _Job] = {}
        self._free = deque(range(runner.slots))

    def add(self, job: int, utterance: Utterance) -> None:
        """Begin a job; its text follows."""
        assert job not in self._jobs, job
        sequence = Sequence(job, utterance.plan, utterance.sampling.max_new_tokens, self._eos, self._guards)
        self._jobs[job] = _Job(utterance, sequence, self._tokenizer.stream())

    def append_text(self, job: int, text: str) -> None:
        """More text, split anywhere: its ids are those of the whole text."""
        self._jobs[job].sequence.append(self._jobs[job].text.feed(text))

    def end_text(self, job: int) -> None:
        """No more text comes."""
        entry = self._jobs[job]
        if not entry.text.ended:
            entry.sequence.append(entry.text.end())
            entry.sequence.end_text()

    def hold(self, job: int, held: bool) -> None:
        """Make no frame for a job while `held`."""
        self._jobs[job].held = held

    def cancel(self, job: int) -> None:
        """Forget a job, known or not."""
        if entry := self._jobs.pop(job, None):
            self._release(entry)

    def wants_text(self, job: int) -> bool:
        """Whether a job can do nothing before more of its text comes."""
        entry = self._jobs.get(job)
        if entry is None or entry.text.ended:
            return False
        return not entry.sequence.can_begin if entry.slot is None else entry.sequence.starved

    @property
    def jobs(self) -> tuple[int, ...]:
        return tuple(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return any(self._can_begin(job) or self._can_advance(job) for job in self._jobs.values())

    def step(self) -> list[Progress]:
        """One frame for every sequence that can make one; gives what became audio, ends included.

        Each job of the result with `ended` is forgotten. A CUDA error leaves the engine unusable.
        """
        done = [self._without_audio(number) for number, job in list(self._jobs.items()) if self._is_empty(job)]
        advancing = [job for job in self._jobs.values() if self._can_advance(job)]
        beginning = [job for job in self._jobs.values() if self._can_begin(job)][: len(self._free)]
        done += [self._too_long(job) for job in beginning if self._is_too_long(job)]
        beginning = [job for job in beginning if not self._is_too_long(job)]
        if advancing:
            slots = [job.slot for job in advancing if job.slot is not None]
            codes = self._runner.advance(slots, [job.sequence.next_text() for job in advancing])
            self._judge(advancing, codes)
        if beginning:
            self._judge(beginning, self._runner.begin([self._enter(job) for job in beginning]))
        return done + self._emit([*advancing, *beginning])

    def _can_begin(self, job: _Job) -> bool:
        return (
            job.slot is None and not job.held and bool(self._free) and (job.sequence.can_begin or self._is_empty(job))
        )

    def _can_advance(self, job: _Job) -> bool:
        return job.slot is not None and not (job.held or job.over or job.sequence.starved)

    def _is_empty(self, job: _Job) -> bool:
        return job.slot is None and job.text.ended and job.sequence.text_ids == 0

    def _is_too_long(self, job: _Job) -> bool:
        return job.sequence.prompt_positions >= self._runner.max_positions

    def _too_long(self, job: _Job) -> Progress:
        room, needed = self._runner.max_positions, job.sequence.prompt_positions
        return self._without_audio(job.sequence.job, f"the prompt takes {needed} positions, a slot has {room}")

    def _without_audio(self, number: int, failed: str | None = None) -> Progress:
        del self._jobs[number]
        return Progress(number, torch.empty(16, 0, dtype=torch.int64), torch.empty(0), ended=True, failed=failed)

    def _enter(self, job: _Job) -> Entry:
        """Give a job its slot."""
        job.slot = self._free.popleft()
        utterance = job.utterance
        seed = utterance.sampling.seed
        return Entry(
            slot=job.slot,
            positions=job.sequence.begin().head,
            voice=utterance.voice,
            sampling=utterance.sampling,
            seed=secrets.randbits(62) if seed is None else seed,
            primed=utterance.primed,
        )

    def _judge(self, jobs: Rows[_Job], codes: Tensor) -> None:
        """Keep what is a frame. A runaway's last frame is kept too: it carries the fade."""
        for job, frame in zip(jobs, codes.tolist(), strict=True):
            verdict = job.sequence.accept(frame[0])
            assert job.slot is not None
            if verdict is Verdict.FRAME and self._runner.room(job.slot) == 0:
                job.sequence.cut_short(Cut.TOO_LONG)
            if verdict is Verdict.FRAME or job.sequence.cut in RUNAWAY:
                job.pending.append(frame)

    def _emit(self, jobs: Rows[_Job]) -> list[Progress]:
        """Decode what is due, all chunks of one length together."""
        lengths: dict[int, list[_Job]] = {}
        for job in jobs:
            if job.due_frames or job.over:
                lengths.setdefault(job.due_frames, []).append(job)
        return [progress for frames, group in lengths.items() for progress in self._decode(group, frames)]

    def _decode(self, jobs: list[_Job], frames: int) -> list[Progress]:
        slots = [job.slot for job in jobs if job.slot is not None]
        if not frames:
            return [self._progress(job, torch.empty(16, 0, dtype=torch.int64), torch.empty(0)) for job in jobs]
        codes = torch.tensor([job.pending[:frames] for job in jobs]).mT  # [B, 16, n]
        waves = self._runner.decode(slots, codes)
        return [self._progress(job, codes[row], waves[row]) for row, job in enumerate(jobs)]

    def _progress(self, job: _Job, codes: Tensor, wave: Tensor) -> Progress:
        number, cut = job.sequence.job, job.sequence.cut
        job.chunks += 1
        del job.pending[: codes.shape[-1]]
        if job.over:
            del self._jobs[number]
            self._release(job)
        if cut in RUNAWAY:
            log.warning("job %d cut after %d frames for %d text ids: %s", number, job.sequence.frames,
                        job.sequence.text_ids, cut)  # fmt: skip
            wave = faded(wave, self._runner.frame_samples)
        return Progress(number, codes, wave, job.over, cut)

    def _release(self, job: _Job) -> None:
        if job.slot is not None:
            self._free.append(job.slot)
            job.slot = None


def faded(wave: Tensor, samples: int) -> Tensor:
    """The wave with its last `samples` samples falling to silence along a half cosine."""
    tail = min(samples, wave.shape[-1])
    ramp = 0.5 * (1 + torch.cos(torch.linspace(0, math.pi, tail)))
    return torch.cat((wave[..., : wave.shape[-1] - tail], wave[..., wave.shape[-1] - tail :] * ramp), dim=-1)
