"""The engine: several sequences that advance together, join and leave between steps, and become audio as they go.

A step launches the next frame of all sequences, and only then looks at the frame launched `runner.lag` steps ago. So
the device never waits for the host, and the end of a sequence is read when frames after it are already made: those are
forgotten, sound of them included.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .edges import faded, without_silence
from .emission import FRAME_S, CreditPlan, Emission, Moment, Playback, Smoothed
from .languages import PromptError
from .model.streaming import CodecSnapshot
from .prompt import PromptPlan
from .runner import Entry, Made, Runner, VoiceVectors, Wave
from .sampling_params import SamplingParams
from .sequence import Cut, Guards, Sequence, Verdict
from .tokens import TextTokenizer, TokenStream

log = logging.getLogger(__name__)

RUNAWAY = (Cut.TOO_LONG, Cut.LOOP)
SILENT_FRAMES = 5
"""So many leading frames at most may be left out as silence."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """Everything about a job but its text. With `trim_silence` its audio begins with its sound."""

    plan: PromptPlan
    sampling: SamplingParams = field(default_factory=SamplingParams)
    voice: VoiceVectors = field(default_factory=VoiceVectors)
    primed: CodecSnapshot | None = None
    emission: Emission = field(default_factory=CreditPlan)
    trim_silence: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One chunk of one job: codes [16, n] and wave float32 [1920 · n], both on the host; less wave where it is trimmed.

    `failed` says why a job could not even begin, PromptError or MemoryError; it has ended then.
    """

    job: int
    codes: Tensor
    wave: Tensor
    ended: bool = False
    cut: Cut | None = None
    failed: PromptError | MemoryError | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A job's row of a wave that has been launched, and whether a chunk ends with it."""

    wave: Wave
    row: int
    frames: int
    closes: bool
    launched_s: float


@dataclass(slots=True, eq=False)
class _Job:
    """Frame counts of a job, from the launch to the listener: launched ≥ decoded ≥ closed ≥ sent."""

    utterance: Utterance
    sequence: Sequence
    text: TokenStream
    slot: int | None = None
    held: bool = False
    launched: int = 0
    decoded: int = 0
    closed: int = 0  # in chunks whose last piece has been launched
    sent: int = 0
    kept: int = 0  # judged to be frames
    chunks: int = 0  # closed ones
    codes: list[list[int]] = field(default_factory=list)  # kept and not sent
    pieces: deque[_Piece] = field(default_factory=deque)
    playback: Playback = field(default_factory=Playback)

    @property
    def over(self) -> bool:
        return self.sequence.verdict is not Verdict.FRAME

    @property
    def heard(self) -> bool:
        return self.playback.ends_s is not None

    @property
    def unsent(self) -> bool:
        """Whether something of it will be sent even if no further frame is made."""
        return self.over or self.sent < self.closed

    @property
    def judged(self) -> bool:
        """Whether the frames of its next chunk are known to be speech."""
        return self.over or self.kept >= self.sent + self.next_frames

    @property
    def next_frames(self) -> int:
        """How many launched frames its next chunk has."""
        count = 0
        for piece in self.pieces:
            count += piece.frames
            if piece.closes:
                break
        return count


@dataclass(frozen=True, slots=True)
class _Launch:
    """A frame under way, and for each of its jobs whether its slot is full after it."""

    jobs: list[_Job]
    full: list[bool]
    made: Made


class Engine:
    """Speaks jobs, `runner.slots` of them at once and the others after them. One thread drives it."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: TextTokenizer,
        guards: Guards | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._guards = guards or Guards()
        self._clock = clock
        self._eos = runner.model.config.talker.ids.eos
        self._jobs: dict[int, _Job] = {}
        self._free = deque(range(runner.slots))
        self._flight: deque[_Launch] = deque()
        self._step_time, self._delivery_time = Smoothed(), Smoothed()

    # --- commands -----------------------------------------------------------------------------------------------

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
        """Launch no frame for a job while `held`; what is under way still comes."""
        self._jobs[job].held = held

    def cancel(self, job: int) -> None:
        """Forget a job, known or not."""
        if entry := self._jobs.pop(job, None):
            self._release(entry)

    def wants_text(self, job: int) -> bool:
        """Whether nothing more comes of a job before more of its text does."""
        entry = self._jobs.get(job)
        if entry is None or entry.text.ended or entry.unsent or entry.launched > entry.sequence.samples:
            return False
        return not entry.sequence.can_begin if entry.slot is None else entry.sequence.starved

    @property
    def jobs(self) -> tuple[int, ...]:
        return tuple(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        able = (job.unsent or self._can_begin(job) or self._can_advance(job) for job in self._jobs.values())
        return bool(self._flight) or any(able)

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self) -> list[Progress]:
        """Launch one frame for every sequence that can make one; gives what has become audio, ends included.

        Waits for the device only where there is nothing to launch, and for a job's first sound. Each job of the
        result with `ended` is forgotten. A CUDA error leaves the engine unusable; after OutOfMemoryError the jobs that
        are not held must be cancelled.
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
            self._judge(self._flight.popleft())
        self._finish_ended()
        done += failed + self._deliver(wait=launch is None)
        if launch and collected:
            self._step_time.add(self._clock() - began_s)
        return done

    def _can_begin(self, job: _Job) -> bool:
        return (
            job.slot is None and not job.held and bool(self._free) and (job.sequence.can_begin or self._is_empty(job))
        )

    def _can_advance(self, job: _Job) -> bool:
        if job.slot is None or job.held or job.over or job.sequence.starved:
            return False
        return self._runner.room(job.slot) > 0

    def _is_empty(self, job: _Job) -> bool:
        return job.slot is None and job.text.ended and job.sequence.text_ids == 0

    def _without_prompt(self) -> list[Progress]:
        """End the jobs that have nothing to say, or too much."""
        empty = [self._ended_unheard(job) for job in list(self._jobs.values()) if self._is_empty(job)]
        room = self._runner.max_positions
        refused = []
        for job in [job for job in self._jobs.values() if self._can_begin(job)][: len(self._free)]:
            if (needed := job.sequence.prompt_positions) >= room:
                error = PromptError(f"the prompt takes {needed} positions, a slot has {room}")
                refused.append(self._ended_unheard(job, error))
        return empty + refused

    def _ended_unheard(self, job: _Job, failed: PromptError | MemoryError | None = None) -> Progress:
        number = job.sequence.job
        self.cancel(number)
        return Progress(number, torch.empty(16, 0, dtype=torch.int64), torch.empty(0), ended=True, failed=failed)

    # --- launching ----------------------------------------------------------------------------------------------

    def _launch(self) -> tuple[_Launch | None, list[Progress]]:
        """The next frame of whoever can make one, newcomers included; and newcomers that found no memory."""
        running = [job for job in self._jobs.values() if self._can_advance(job)]
        entries = [(job, self._enter(job)) for job in self._beginners()]
        failed = self._join(entries) if entries else []
        entered = [(job, entry.first_text) for job, entry in entries if job.slot is not None]
        jobs = [*running, *(job for job, _ in entered)]
        if not jobs:
            return None, failed
        texts = [*(job.sequence.next_text() for job in running), *(text for _, text in entered)]
        slots = [job.slot for job in jobs if job.slot is not None]
        made = self._runner.advance(slots, texts)
        for job in jobs:
            job.launched += 1
        return _Launch(jobs, [self._runner.room(slot) == 0 for slot in slots], made), failed

    def _beginners(self) -> list[_Job]:
        return [job for job in self._jobs.values() if self._can_begin(job)][: len(self._free)]

    def _enter(self, job: _Job) -> Entry:
        """Give a job its slot."""
        job.slot = self._free.popleft()
        utterance = job.utterance
        seed = utterance.sampling.seed
        return Entry(
            slot=job.slot,
            prompt=job.sequence.begin(),
            voice=utterance.voice,
            sampling=utterance.sampling,
            seed=secrets.randbits(62) if seed is None else seed,
            primed=utterance.primed,
        )

    def _join(self, entries: Rows[tuple[_Job, Entry]]) -> list[Progress]:
        """Read the prompts, together if memory allows it; a job whose prompt does not even fit alone has failed."""
        if self._joined([entry for _, entry in entries]):
            return []
        failed = [job for job, entry in entries if not self._joined([entry])]
        return [self._ended_unheard(job, MemoryError("the GPU ran out of memory")) for job in failed]

    def _joined(self, entries: list[Entry]) -> bool:
        try:
            self._runner.join(entries)
        except torch.cuda.OutOfMemoryError as error:
            log.error("out of GPU memory for %d new prompts: %s", len(entries), str(error).splitlines()[0])
            return False
        return True

    # --- decoding -----------------------------------------------------------------------------------------------

    def _decode_due(self, jobs: Iterable[_Job]) -> None:
        """Launch the codec for chunks that the frame just launched completes."""
        due: list[tuple[_Job, int, bool]] = []
        longest = self._runner.decode_frames
        for job in jobs:
            frames = job.utterance.emission.due(self._moment(job))
            if frames:
                due.append((job, job.closed + frames - job.decoded, True))
            elif job.launched - job.decoded >= longest:
                due.append((job, longest, False))  # a part of a long chunk, before the ring of codes comes round
        self._decode(due)

    def _moment(self, job: _Job) -> Moment:
        under_way_s = (job.closed - job.sent) * FRAME_S
        return Moment(
            chunk=job.chunks,
            waiting=job.launched - job.closed,
            starved=job.sequence.starved,
            in_hand_s=job.playback.in_hand_s(self._clock(), under_way_s),
            step_s=self._step_time.value_s,
            delivery_s=self._delivery_time.value_s,
        )

    def _decode(self, due: Iterable[tuple[_Job, int, bool]]) -> None:
        """Pieces of one length together, the short ones first: a job's first sound is among them."""
        lengths: dict[tuple[int, bool], list[_Job]] = defaultdict(list)
        for job, frames, closes in due:
            lengths[frames, closes].append(job)
        for (frames, closes), group in sorted(lengths.items(), key=lambda item: item[0]):
            wave = self._runner.decode([job.slot for job in group if job.slot is not None], frames)
            now_s = self._clock()
            for row, job in enumerate(group):
                job.pieces.append(_Piece(wave, row, frames, closes, now_s))
                job.decoded += frames
                if closes:
                    job.closed = job.decoded
                    job.chunks += 1

    # --- judging ------------------------------------------------------------------------------------------------

    def _judge(self, launch: _Launch) -> None:
        """Keep what is a frame, unless its job is gone. A runaway's last frame is kept too: it carries the fade."""
        for job, full, frame in zip(launch.jobs, launch.full, launch.made.codes(), strict=True):
            if job.over or self._jobs.get(job.sequence.job) is not job:
                continue
            verdict = job.sequence.accept(frame[0])
            if verdict is Verdict.FRAME and full:
                job.sequence.cut_short(Cut.TOO_LONG)
            if verdict is Verdict.FRAME or job.sequence.cut in RUNAWAY:
                job.codes.append(frame)
                job.kept += 1

    def _finish_ended(self) -> None:
        """Launch the rest of ended jobs' sound and free their slots.

        A frame that was launched for such a slot in vain may still be under way. Its next job need not wait for it:
        frames, and sound, are each made in the order of their launch, and what a job needs is written at its start.
        """
        ended = [job for job in self._jobs.values() if job.over and job.slot is not None]
        self._decode([(job, job.kept - job.decoded, True) for job in ended if job.kept > job.decoded])
        for job in ended:
            self._release(job)

    def _release(self, job: _Job) -> None:
        if job.slot is not None:
            self._free.append(job.slot)
            job.slot = None

    # --- delivering ---------------------------------------------------------------------------------------------

    def _deliver(self, wait: bool) -> list[Progress]:
        """What can be sent now, for each job in order. With `wait`, all that has been launched."""
        done = []
        for job in list(self._jobs.values()):
            while job.unsent and job.judged and (wait or not job.heard or self._arrived(job)):
                done.append(progress := self._next_chunk(job))
                if progress.ended:
                    del self._jobs[progress.job]
                    break
        return done

    def _arrived(self, job: _Job) -> bool:
        """Whether the sound of its next chunk is there; true of one that has none."""
        for piece in job.pieces:
            if not piece.wave.ready:
                return False
            if piece.closes:
                break
        return True

    def _next_chunk(self, job: _Job) -> Progress:
        """The next chunk without what was decoded in vain after the job's end; nothing but the end if none is left."""
        pieces = []
        while job.pieces and not (pieces and pieces[-1].closes):
            pieces.append(job.pieces.popleft())
        frames = min(sum(piece.frames for piece in pieces), job.kept - job.sent)
        wave = torch.empty(0)
        if frames:
            wave = torch.cat([piece.wave.read()[piece.row] for piece in pieces])
            self._delivery_time.add(self._clock() - pieces[-1].launched_s)
        ended = job.over and job.sent + frames == job.kept
        wave = self._edged(job, wave[: frames * self._runner.frame_samples], ended)
        codes = torch.tensor(job.codes[:frames], dtype=torch.int64).view(-1, 16).mT  # [16, n]
        del job.codes[:frames]
        job.sent += frames
        if len(wave):
            job.playback.receive(self._clock(), len(wave) / self._runner.frame_samples * FRAME_S)
        if ended:
            self._log_cut(job)
        return Progress(job.sequence.job, codes, wave, ended, job.sequence.cut if ended else None)

    def _edged(self, job: _Job, wave: Tensor, ended: bool) -> Tensor:
        """A chunk's wave without leading silence where that is wanted, and faded at a runaway's end."""
        samples = self._runner.frame_samples
        if job.utterance.trim_silence and not job.heard:
            wave = without_silence(wave, max(SILENT_FRAMES - job.sent, 0) * samples)
        return faded(wave, samples) if ended and job.sequence.cut in RUNAWAY else wave

    def _log_cut(self, job: _Job) -> None:
        if job.sequence.cut in RUNAWAY:
            log.warning("job %d cut after %d frames for %d text ids: %s", job.sequence.job, job.kept,
                        job.sequence.text_ids, job.sequence.cut)  # fmt: skip
