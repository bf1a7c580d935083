"""One engine for many users: whoever waits for speech drives it, for all of them, one thread at a time.

Commands are queued and applied before the next step, so that nobody waits for a step to begin or cancel a job. What a
step makes for others lies in their inboxes until they ask.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from ..prompt.planner import PromptPlan
from ..prompt.tokenizer import TextTokenizer
from ..runtime.model_runner import Runner
from ..scheduler.engine import ChunkOutput, Engine, GenerationRequest
from ..scheduler.sequence import RunawayLimits
from ..voices.prompt import VoicePrompt
from .clone_prompts import PrimedVoices

STALLED_S = 60.0
NO_GUARDS = RunawayLimits(frames_per_text_id=0, min_frames=1 << 31, loop_frames=0)

Planned: TypeAlias = tuple[PromptPlan, VoicePrompt | None]

Result = TypeVar("Result")


class EngineFailure(RuntimeError):
    """A step failed or was interrupted: every job that was running has ended. The cause says why."""


@dataclass(frozen=True, slots=True)
class Speech:
    """A whole utterance: codes int64 [16, frames] and wave float32 [1920 · frames], both on the host."""

    codes: Tensor
    wave: Tensor


class ThreadedEngine:
    """Makes speech for any number of threads and of streams open in one thread."""

    def __init__(self, engine: Engine, device: torch.device | None = None) -> None:
        """`device`: where the engine's kernels run, whatever the current GPU of the thread that drives it."""
        self._engine = engine
        self._gpu = device if device and device.type == "cuda" else None
        # Reentrant: the garbage collector may close a stream, which cancels its job, at any moment.
        self._changed = threading.Condition(threading.RLock())
        self._driver: int | None = None  # the thread whose turn it is
        self._busy = False
        self._commands: deque[Callable[[], None]] = deque()
        self._inboxes: dict[int, deque[ChunkOutput | BaseException]] = {}
        self._hungry: frozenset[int] = frozenset()
        self._numbers = count(1)

    def speak(self, utterances: Sequence[tuple[GenerationRequest, str]]) -> list[Speech]:
        """Several texts together. Raises PromptError or MemoryError for one whose prompt does not fit, and
        EngineFailure."""
        jobs = [next(self._numbers) for _ in utterances]
        try:
            self._begin_together(jobs, utterances)
            return [_joined(list(self._follow(job, iter(())))) for job in jobs]
        finally:
            for job in jobs:
                self._cancel(job)

    def stream(self, utterance: GenerationRequest, text: str | Iterator[str]) -> Generator[ChunkOutput, None, None]:
        """One text, whole or as it is written: a piece is asked for only when nothing can be made without it.

        Begins with the first `next`; closing or dropping the iterator cancels. Raises as `speak` does.
        """
        job = next(self._numbers)
        try:
            # The end of a whole text is known: no other job shall wait until this listener asks for more.
            self._begin(job, utterance, text if isinstance(text, str) else None)
            yield from self._follow(job, iter(()) if isinstance(text, str) else text)
        finally:
            self._cancel(job)

    def stream_together(
        self, utterances: Sequence[tuple[GenerationRequest, str]]
    ) -> Generator[list[ChunkOutput | None], None, None]:
        """Several texts together: what each has new, or None, as soon as any of them has something.

        Begins with the first `next`; closing or dropping the iterator cancels them all. Raises as `speak` does.
        """
        jobs = [next(self._numbers) for _ in utterances]
        try:
            self._begin_together(jobs, utterances)
            yield from self._rounds(jobs)
        finally:
            for job in jobs:
                self._cancel(job)

    @property
    def idle(self) -> bool:
        """Whether nobody is being spoken to."""
        return not self._inboxes

    def exclusively(self, call: Callable[[], Result]) -> Result:
        """What `call` gives when no step runs beside it."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

        self._post(run)
        self._drive_until(future.done)
        return future.result()

    def _begin_together(self, jobs: Sequence[int], utterances: Sequence[tuple[GenerationRequest, str]]) -> None:
        for job, (utterance, text) in zip(jobs, utterances, strict=True):
            self._begin(job, utterance, text)

    def _begin(self, job: int, utterance: GenerationRequest, text: str | None = None) -> None:
        """Whatever interrupts this, `_cancel` ends the job."""
        self._inboxes[job] = deque()
        self._post(partial(self._engine.add, job, utterance))
        if text is not None:
            self._feed(job, text)
            self._feed(job, None)

    def _feed(self, job: int, piece: str | None) -> None:
        if piece is not None and not isinstance(piece, str):
            raise TypeError(f"text comes in pieces of str, not {type(piece).__name__}")
        with self._changed:
            self._hungry -= {job}
            self._post(partial(self._take_text, job, piece))

    def _take_text(self, job: int, piece: str | None) -> None:
        if job not in self._engine.jobs:
            return  # it has ended meanwhile
        if piece is None:
            self._engine.end_text(job)
        else:
            self._engine.append_text(job, piece)

    def _cancel(self, job: int) -> None:
        if self._inboxes.pop(job, None) is not None:
            self._post(partial(self._engine.cancel, job))

    def _post(self, command: Callable[[], None]) -> None:
        with self._changed:
            self._commands.append(command)
            self._changed.notify_all()

    def _follow(self, job: int, pieces: Iterator[str]) -> Iterator[ChunkOutput]:
        inbox = self._inboxes[job]
        while True:
            self._drive_until(lambda: bool(inbox) or job in self._hungry)
            if not inbox:
                self._feed(job, next(pieces, None))
                continue
            progress = self._taken(job, inbox)
            yield progress
            if progress.ended:
                return

    def _rounds(self, jobs: Sequence[int]) -> Iterator[list[ChunkOutput | None]]:
        inboxes = {job: self._inboxes[job] for job in jobs}
        while open_jobs := [job for job in jobs if job in self._inboxes]:
            self._drive_until(lambda: any(inboxes.values()))
            arrived = {job: self._taken(job, inboxes[job]) for job in open_jobs if inboxes[job]}
            yield [arrived.get(job) for job in jobs]

    def _taken(self, job: int, inbox: deque[ChunkOutput | BaseException]) -> ChunkOutput:
        progress = inbox.popleft()
        if isinstance(progress, BaseException):
            raise EngineFailure("the engine failed, or was interrupted, while it spoke") from progress
        if progress.failed:
            raise progress.failed
        if progress.ended:
            self._inboxes.pop(job, None)
        return progress

    def _drive_until(self, done: Callable[[], bool]) -> None:
        try:
            while self._take_turn(done):
                try:
                    with torch.cuda.device(self._gpu) if self._gpu else nullcontext():
                        self._turn()
                except BaseException as error:
                    self._abandon(error)
                    raise
        finally:
            self._pass_turn()

    def _take_turn(self, done: Callable[[], bool]) -> bool:
        """Wait until this thread must drive (True), or until its wish has come true (False)."""
        with self._changed:
            self._pass_turn()
            while not done():
                if self._driver is None and (self._commands or self._busy):
                    self._driver = threading.get_ident()
                    return True
                if not self._changed.wait(STALLED_S) and self._driver is None:
                    raise EngineFailure("every slot is taken by a stream whose text does not go on")
            return False

    def _pass_turn(self) -> None:
        """Let others drive, if this thread does, wherever it has been interrupted."""
        with self._changed:
            if self._driver == threading.get_ident():
                self._driver = None
                self._changed.notify_all()

    def _turn(self) -> None:
        while self._commands:
            self._commands.popleft()()
        for progress in self._engine.step() if self._engine.busy else ():
            inbox = self._inboxes.get(progress.job)
            if inbox is not None:
                inbox.append(progress)
        with self._changed:
            if not self._commands:  # which may be the text that a job still seems to want
                self._hungry = frozenset(job for job in self._engine.jobs if self._engine.wants_text(job))
        self._busy = self._engine.busy

    def _abandon(self, error: BaseException) -> None:
        for job in self._engine.jobs:
            self._engine.cancel(job)
            if (inbox := self._inboxes.get(job)) is not None:
                inbox.append(error)
        self._hungry, self._busy = frozenset(), False


class EngineHandle:
    """A runner under a `ThreadedEngine`."""

    def __init__(self, runner: Runner, tokenizer: TextTokenizer) -> None:
        self.engine = engine = ThreadedEngine(Engine(runner, tokenizer, NO_GUARDS), runner.device)
        self._primed = PrimedVoices(lambda codes: engine.exclusively(partial(runner.prime, codes)))

    def utterance(self, planned: Planned, **how: Any) -> GenerationRequest:
        """What this engine needs to speak as planned; snapshots of a voice fit no other."""
        plan, voice = planned
        if voice is None:
            return GenerationRequest(plan, **how)
        return GenerationRequest(plan, voice=voice.vectors, primed=self._primed.get(voice), **how)


def _joined(parts: Sequence[ChunkOutput]) -> Speech:
    return Speech(torch.cat([part.codes for part in parts], -1), torch.cat([part.wave for part in parts]))
