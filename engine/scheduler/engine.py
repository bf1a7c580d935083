"""Continuous batching: sequences advance together, and join and leave the batch between steps.

Each step launches the next frame of all sequences before it reads the codes of the frame launched `runner.lag` steps
ago. The device therefore never waits for the host. By the time the end of a sequence is read, later frames have already
been launched; they are discarded together with their audio.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from ..model.config import CODE_GROUPS, FRAME_S
from ..prompt.languages import PromptError
from ..prompt.tokenizer import TextTokenizer
from ..runtime.model_runner import PendingCodes, Runner
from ..runtime.prefill import PrefillRequest
from .chunking import EmissionState, MovingAverage
from .job import ChunkOutput, DecodedSpan, GenerationRequest, RunningJob
from .sequence import RunawayLimits, Sequence, end_ids

__all__ = ["ChunkOutput", "Engine", "GenerationRequest"]

STAGGERED_FROM = 9
"""With at least this many running jobs their chunks end in different steps."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _FrameInFlight:
    """A launched frame, and for each of its jobs whether the frame fills the job's slot."""

    jobs: list[RunningJob]
    full: list[bool]
    pending: PendingCodes


class Engine:
    """Run up to `runner.slots` jobs at once and queue the rest. Must be driven by a single thread."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: TextTokenizer,
        guards: RunawayLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._guards = guards or RunawayLimits()
        self._clock = clock
        self._ends = end_ids(runner.model.config.talker)
        self._jobs: dict[int, RunningJob] = {}
        self._free = deque(range(runner.slots))
        self._flight: deque[_FrameInFlight] = deque()
        self._step_time, self._delivery_time = MovingAverage(), MovingAverage()

    # --- commands -----------------------------------------------------------------------------------------------

    def add(self, job: int, utterance: GenerationRequest) -> None:
        """Add a job. Its text follows in calls of `append_text`."""
        assert job not in self._jobs, job
        sampling = utterance.sampling
        ends = self._ends.union(sampling.end_ids)
        sequence = Sequence(job, utterance.plan, sampling.max_new_tokens, ends, self._guards)
        self._jobs[job] = RunningJob(utterance, sequence, self._tokenizer.stream(), self._runner.frame_samples)

    def append_text(self, job: int, text: str) -> None:
        """Append a piece of text. Pieces may be split anywhere: the token ids equal those of the whole text."""
        self._jobs[job].sequence.append(self._jobs[job].text.feed(text))

    def end_text(self, job: int) -> None:
        """Mark the job's text as complete."""
        entry = self._jobs[job]
        if not entry.text.ended:
            entry.sequence.append(entry.text.end())
            entry.sequence.end_text()

    def hold(self, job: int, paused: bool) -> None:
        """Pause or resume a job. No frame is launched while it is paused; frames in flight are still delivered."""
        self._jobs[job].paused = paused

    def cancel(self, job: int) -> None:
        """Cancel a job and release its slot; ignore unknown jobs."""
        if entry := self._jobs.pop(job, None):
            self._release(entry)

    def wants_text(self, job: int) -> bool:
        """Return True if the job cannot produce more output until it receives more text."""
        entry = self._jobs.get(job)
        if entry is None or entry.text.ended or entry.unsent or entry.in_flight:
            return False
        return not entry.sequence.can_begin if entry.slot is None else entry.sequence.starved

    @property
    def jobs(self) -> tuple[int, ...]:
        return tuple(self._jobs)

    @property
    def busy(self) -> bool:
        """True if there is any work for `step`."""
        able = (
            job.unsent or self._is_empty(job) or self._can_begin(job) or self._can_advance(job)
            for job in self._jobs.values()
        )
        return bool(self._flight) or any(able)

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self) -> list[ChunkOutput]:
        """Launch one frame for every sequence that can advance; return the finished chunks, including the last ones.

        A step launches frame n of all running jobs, then the codec for the chunks that this frame completes. Only after
        that does it read the codes of frame n - lag, which reveal whether a job has ended. Each job's frames therefore
        advance five counters:

            launched ──> decoded ──> closed ──> sent     by the host, ahead of the results
                 └────> kept ─────────────────────┘      by `_process_codes`, `lag` frames later

        launched: frames launched on the talker. decoded: frames passed to the codec. closed: decoded frames in complete
        chunks. kept: frames whose codes have been read and are speech. sent: frames delivered. While a job runs,
        sent <= closed <= decoded <= launched and sent <= kept <= launched. When it ends, frames after `kept` are
        discarded; the remaining frames up to `kept` are decoded and sent as its last chunk.

            waiting ──prefill──> running ──end or cut──> over ──last chunk sent──> removed
               │                  │   ^                   (slot released)
               │                  └───┘ starved (no text) or paused: no frame is launched
               └── no text, too long, no memory: ends without audio

        Block on the device only if there is nothing to launch, or for a job's first audio. Jobs whose chunk has `ended`
        set are removed. A CUDA error makes the engine unusable; after OutOfMemoryError, all jobs that are not paused
        must be cancelled.
        """
        began_s = self._clock()
        done = self._without_prompt()
        launch, failed = self._launch()
        if launch:
            self._flight.append(launch)
            self._decode_due(launch.jobs)
        lag = self._runner.lag if launch else 0
        collected = len(self._flight) > lag
        while len(self._flight) > lag:
            self._process_codes(self._flight.popleft())
        self._finish_ended()
        done += failed + self._deliver(wait=launch is None)
        if launch and collected:
            self._step_time.add(self._clock() - began_s)
        return done

    def _can_begin(self, job: RunningJob) -> bool:
        return job.slot is None and not job.paused and bool(self._free) and job.sequence.can_begin

    def _can_advance(self, job: RunningJob) -> bool:
        if job.slot is None or job.paused or job.finished or job.sequence.starved:
            return False
        return self._runner.room(job.slot) > 0

    def _is_empty(self, job: RunningJob) -> bool:
        return job.slot is None and job.text.ended and job.sequence.text_ids == 0

    def _without_prompt(self) -> list[ChunkOutput]:
        """End jobs whose text is empty or whose prompt is too long."""
        empty = [self._end_without_audio(job) for job in list(self._jobs.values()) if self._is_empty(job)]
        room = self._runner.max_positions
        refused = []
        for job in [job for job in self._jobs.values() if self._can_begin(job)][: len(self._free)]:
            if (needed := job.sequence.prompt_positions) >= room:
                error = PromptError(
                    f"the prompt needs {needed} positions, a slot has {room}: shorten the text, instruct or reference"
                )
                refused.append(self._end_without_audio(job, error))
        return empty + refused

    def _end_without_audio(self, job: RunningJob, failed: PromptError | MemoryError | None = None) -> ChunkOutput:
        number = job.sequence.job
        self.cancel(number)
        codes = torch.empty(CODE_GROUPS, 0, dtype=torch.int64)
        return ChunkOutput(number, codes, torch.empty(0), ended=True, failed=failed)

    # --- launching ----------------------------------------------------------------------------------------------

    def _launch(self) -> tuple[_FrameInFlight | None, list[ChunkOutput]]:
        """Launch the next frame of all jobs that can advance, new ones included.

        Return the frame, or None if there was nothing to launch, and the results of new jobs that ran out of memory.
        """
        running = self._schedulable([job for job in self._jobs.values() if self._can_advance(job)])
        entries = [(job, self._assign_slot(job)) for job in self._admissible()]
        failed = self._prefill(entries) if entries else []
        entered = [(job, entry.first_text) for job, entry in entries if job.slot is not None]
        jobs = [*running, *(job for job, _ in entered)]
        if not jobs:
            return None, failed
        texts = [*(job.sequence.next_text() for job in running), *(text for _, text in entered)]
        slots = [job.slot for job in jobs if job.slot is not None]
        pending = self._runner.advance(slots, texts)
        for job in jobs:
            job.launched += 1
        return _FrameInFlight(jobs, [self._runner.room(slot) == 0 for slot in slots], pending), failed

    def _schedulable(self, jobs: list[RunningJob]) -> list[RunningJob]:
        fitting = self._runner.fitting([job.slot for job in jobs if job.slot is not None])
        return jobs if len(fitting) == len(jobs) else [job for job in jobs if job.slot in fitting]

    def _admissible(self) -> list[RunningJob]:
        waiting = [job for job in self._jobs.values() if self._can_begin(job)][: len(self._free)]
        return waiting[: self._runner.admit([job.sequence.prompt_positions for job in waiting])]

    def _assign_slot(self, job: RunningJob) -> PrefillRequest:
        """Assign a free slot to a job and return its prefill request."""
        job.slot = self._free.popleft()
        utterance = job.utterance
        seed = utterance.sampling.seed
        return PrefillRequest(
            slot=job.slot,
            prompt=job.sequence.begin(),
            voice=utterance.voice,
            sampling=utterance.sampling,
            seed=secrets.randbits(62) if seed is None else seed,
            primed=utterance.primed,
        )

    def _prefill(self, entries: Rows[tuple[RunningJob, PrefillRequest]]) -> list[ChunkOutput]:
        """Prefill the prompts in one batch, or one by one if memory runs out; fail jobs whose prompt does not fit
        alone.
        """
        if self._prefilled([entry for _, entry in entries]):
            return []
        failed = [job for job, entry in entries if not self._prefilled([entry])]
        return [self._end_without_audio(job, MemoryError("the GPU ran out of memory")) for job in failed]

    def _prefilled(self, entries: list[PrefillRequest]) -> bool:
        try:
            self._runner.prefill(entries)
        except torch.cuda.OutOfMemoryError as error:
            log.error("out of GPU memory for %d new prompts: %s", len(entries), str(error).splitlines()[0])
            return False
        return True

    # --- decoding -----------------------------------------------------------------------------------------------

    def _decode_due(self, jobs: Rows[RunningJob]) -> None:
        """Launch the codec for the chunks that the frame just launched completes."""
        due: list[tuple[RunningJob, int, bool]] = []
        longest = self._runner.decode_frames
        staggered = len(jobs) >= STAGGERED_FROM
        for job in jobs:
            frames = job.utterance.emission.due(self._emission_state(job, staggered))
            if frames:
                due.append((job, job.closed + frames - job.decoded, True))
            elif job.launched - job.decoded >= longest:
                due.append((job, longest, False))  # decode part of a long chunk before the code ring wraps around
        self._decode(due)

    def _emission_state(self, job: RunningJob, staggered: bool) -> EmissionState:
        in_flight_s = (job.closed - job.sent) * FRAME_S
        return EmissionState(
            chunk=job.chunks,
            waiting=job.launched - job.closed,
            starved=job.sequence.starved,
            in_hand_s=job.playback.in_hand_s(self._clock(), in_flight_s),
            step_s=self._step_time.value_s,
            delivery_s=self._delivery_time.value_s,
            offset=job.closed + (job.slot or 0) if staggered else None,
        )

    def _decode(self, due: Iterable[tuple[RunningJob, int, bool]]) -> None:
        """Decode spans of equal length in one batch, the shortest first: they include the first audio of new jobs."""
        lengths: dict[tuple[int, bool], list[RunningJob]] = defaultdict(list)
        for job, frames, closes in due:
            if job.utterance.codes_only:
                job.add_span(DecodedSpan(None, 0, frames, closes, self._clock()))
            else:
                lengths[frames, closes].append(job)
        for (frames, closes), group in sorted(lengths.items(), key=lambda item: item[0]):
            slots = [job.slot for job in group if job.slot is not None]
            wave = self._runner.decode(slots, frames, urgent=any(job.chunks == 0 for job in group))
            now_s = self._clock()
            for row, job in enumerate(group):
                job.add_span(DecodedSpan(wave, row, frames, closes, now_s))

    # --- processing codes --------------------------------------------------------------------------------------------

    def _process_codes(self, launch: _FrameInFlight) -> None:
        """Wait for a frame and process its codes; discard those of jobs that have ended or been cancelled."""
        for job, full, codes in zip(launch.jobs, launch.full, launch.pending.codes(), strict=True):
            if not job.finished and self._jobs.get(job.sequence.job) is job:
                job.add_frame(codes, last=full)

    def _finish_ended(self) -> None:
        """Launch the codec for the remaining frames of ended jobs and release their slots.

        A superfluous frame may still be in flight for such a slot. The slot's next job need not wait for it: frames and
        audio are each computed in launch order, and a job's state is initialised when it starts.
        """
        ended = [job for job in self._jobs.values() if job.finished and job.slot is not None]
        self._decode([(job, job.kept - job.decoded, True) for job in ended if job.kept > job.decoded])
        for job in ended:
            self._release(job)

    def _release(self, job: RunningJob) -> None:
        if job.slot is not None:
            self._free.append(job.slot)
            self._runner.release(job.slot)
            job.slot = None

    # --- delivering ---------------------------------------------------------------------------------------------

    def _deliver(self, wait: bool) -> list[ChunkOutput]:
        """Return the chunks that can be sent now, in order for each job. With `wait`, block for everything launched."""
        done = []
        for job in list(self._jobs.values()):
            while job.unsent and job.processed and (wait or not job.started or job.arrived):
                progress, took_s = job.next_chunk(self._clock)
                done.append(progress)
                if took_s is not None:
                    self._delivery_time.add(took_s)
                if progress.ended:
                    del self._jobs[progress.job]
                    break
        return done
