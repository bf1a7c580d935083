"""One engine for many threads: a thread that waits for output runs the engine's steps, one thread at a time.

Commands are queued and applied before the next step, so that adding or cancelling a job never waits for a step. The
outputs of a step for other jobs stay in their inboxes until these are read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..prompt.planner import PromptPlan
from ..prompt.sampling_params import SamplingParams
from ..prompt.tokenizer import TextTokenizer
from ..runtime.model_runner import Runner
from ..runtime.prefill import VoiceVectors
from ..scheduler.chunking import Emission
from ..scheduler.engine import ChunkOutput, Engine, GenerationRequest
from ..scheduler.sequence import RunawayLimits
from ..voices.prompt import PrimedVoices, VoicePrompt

STALLED_S = 60.0
NO_LIMITS = RunawayLimits(frames_per_text_id=0, min_frames=1 << 31, loop_frames=0)

Result = TypeVar("Result")


class EngineFailure(RuntimeError):
    """A step failed or was interrupted, which ended every running job. `__cause__` is the reason."""


class PlannedPrompt(NamedTuple):
    """A prompt, and the cloned voice that it refers to."""

    plan: PromptPlan
    voice: VoicePrompt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How prompts are turned into audio. With `codes_only` the engine's chunks hold codes and no audio."""

    sampling: SamplingParams
    emission: Emission
    codes_only: bool = False

    def for_item(self, item: int) -> GenerationOptions:
        """Return the options of one batch item: drawn with `seed` + item, so that equal texts do not sound alike."""
        if self.sampling.seed is None:
            return self
        return replace(self, sampling=replace(self.sampling, seed=(self.sampling.seed + item) % (1 << 63)))


@dataclass(frozen=True, slots=True)
class GeneratedSpeech:
    """One whole text: codes int64 [16, frames] and wave float32 [1920 · frames], both on the host."""

    codes: Tensor
    wave: Tensor


class ThreadedEngine:
    """Runs an `Engine` for any number of threads, and of streams open in one thread."""

    def __init__(self, engine: Engine, device: torch.device | None = None) -> None:
        """`device`: the engine's device; a thread makes it current while it runs a step."""
        self._engine = engine
        self._gpu = device if device and device.type == "cuda" else None
        # Reentrant: the garbage collector may close a stream, which cancels its job, at any moment.
        self._changed = threading.Condition(threading.RLock())
        self._driver: int | None = None  # the thread that runs steps
        self._busy = False
        self._commands: deque[Callable[[], None]] = deque()
        self._inboxes: dict[int, deque[ChunkOutput | BaseException]] = {}
        self._awaiting_text: frozenset[int] = frozenset()
        self._numbers = count(1)

    def synthesize(self, requests: Sequence[tuple[GenerationRequest, str]]) -> list[GeneratedSpeech]:
        """Synthesize several texts together and return them whole.

        Raises PromptError or MemoryError for a prompt that does not fit, EngineFailure when a step fails.
        """
        jobs = [next(self._numbers) for _ in requests]
        try:
            self._submit_all(jobs, requests)
            return [_joined(list(self._outputs(job, iter(())))) for job in jobs]
        finally:
            for job in jobs:
                self._cancel(job)

    def stream(self, request: GenerationRequest, text: str | Iterator[str]) -> Generator[ChunkOutput, None, None]:
        """Synthesize one text, whole or in pieces; a piece is requested only when no frame can be made without it.

        The job is submitted by the first `next`. Closing or dropping the generator cancels it. Raises as
        `synthesize` does; TypeError for a piece that is not a str.
        """
        job = next(self._numbers)
        try:
            # A whole text is submitted with its end, so that no other job waits for this generator to be read.
            self._submit(job, request, text if isinstance(text, str) else None)
            yield from self._outputs(job, iter(()) if isinstance(text, str) else text)
        finally:
            self._cancel(job)

    def stream_together(
        self, requests: Sequence[tuple[GenerationRequest, str]]
    ) -> Generator[list[ChunkOutput | None], None, None]:
        """Synthesize several texts together; yield a list as soon as any of them has output, with None for the others.

        The jobs are submitted by the first `next`. Closing or dropping the generator cancels them all. Raises as
        `synthesize` does.
        """
        jobs = [next(self._numbers) for _ in requests]
        try:
            self._submit_all(jobs, requests)
            yield from self._joint_outputs(jobs)
        finally:
            for job in jobs:
                self._cancel(job)

    @property
    def idle(self) -> bool:
        """True while no job is open."""
        return not self._inboxes

    def exclusively(self, call: Callable[[], Result]) -> Result:
        """Run `call` between two steps and return its result. Raises what it raises."""
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

        self._post(run)
        self._drive_until(future.done)
        return future.result()

    def _submit_all(self, jobs: Sequence[int], requests: Sequence[tuple[GenerationRequest, str]]) -> None:
        for job, (request, text) in zip(jobs, requests, strict=True):
            self._submit(job, request, text)

    def _submit(self, job: int, request: GenerationRequest, text: str | None = None) -> None:
        """Add a job, with its whole text if that is known. It may be interrupted anywhere; `_cancel` ends the job."""
        self._inboxes[job] = deque()
        self._post(partial(self._engine.add, job, request))
        if text is not None:
            self._append_text(job, text)
            self._append_text(job, None)

    def _append_text(self, job: int, piece: str | None) -> None:
        """Pass a piece of text on to the engine; None ends the text."""
        if piece is not None and not isinstance(piece, str):
            raise TypeError(f"each piece of text must be a str, not {type(piece).__name__}")
        with self._changed:
            self._awaiting_text -= {job}
            self._post(partial(self._apply_text, job, piece))

    def _apply_text(self, job: int, piece: str | None) -> None:
        if job not in self._engine.jobs:
            return  # it has ended since
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

    def _outputs(self, job: int, pieces: Iterator[str]) -> Iterator[ChunkOutput]:
        inbox = self._inboxes[job]
        while True:
            self._drive_until(lambda: bool(inbox) or job in self._awaiting_text)
            if not inbox:
                self._append_text(job, next(pieces, None))
                continue
            output = self._receive(job, inbox)
            yield output
            if output.ended:
                return

    def _joint_outputs(self, jobs: Sequence[int]) -> Iterator[list[ChunkOutput | None]]:
        inboxes = {job: self._inboxes[job] for job in jobs}
        while open_jobs := [job for job in jobs if job in self._inboxes]:
            self._drive_until(lambda: any(inboxes.values()))
            arrived = {job: self._receive(job, inboxes[job]) for job in open_jobs if inboxes[job]}
            yield [arrived.get(job) for job in jobs]

    def _receive(self, job: int, inbox: deque[ChunkOutput | BaseException]) -> ChunkOutput:
        output = inbox.popleft()
        if isinstance(output, BaseException):
            raise EngineFailure("the engine failed or was interrupted while this job ran") from output
        if output.failed:
            raise output.failed
        if output.ended:
            self._inboxes.pop(job, None)
        return output

    def _drive_until(self, done: Callable[[], bool]) -> None:
        try:
            while self._acquire_turn(done):
                try:
                    with torch.cuda.device(self._gpu) if self._gpu else nullcontext():
                        self._run_turn()
                except BaseException as error:
                    self._abandon(error)
                    raise
        finally:
            self._release_turn()

    def _acquire_turn(self, done: Callable[[], bool]) -> bool:
        """Wait until this thread is to run a step (True), or until `done` (False)."""
        with self._changed:
            self._release_turn()
            while not done():
                if self._driver is None and (self._commands or self._busy):
                    self._driver = threading.get_ident()
                    return True
                if not self._changed.wait(STALLED_S) and self._driver is None:
                    raise EngineFailure("every slot is held by a stream that waits for more text")
            return False

    def _release_turn(self) -> None:
        """Let other threads run steps; without effect on a thread that does not hold the turn."""
        with self._changed:
            if self._driver == threading.get_ident():
                self._driver = None
                self._changed.notify_all()

    def _run_turn(self) -> None:
        while self._commands:
            self._commands.popleft()()
        for output in self._engine.step() if self._engine.busy else ():
            inbox = self._inboxes.get(output.job)
            if inbox is not None:
                inbox.append(output)
        with self._changed:
            if not self._commands:  # they may hold the text that a job seems to wait for
                self._awaiting_text = frozenset(job for job in self._engine.jobs if self._engine.wants_text(job))
        self._busy = self._engine.busy

    def _abandon(self, error: BaseException) -> None:
        for job in self._engine.jobs:
            self._engine.cancel(job)
            if (inbox := self._inboxes.get(job)) is not None:
                inbox.append(error)
        self._awaiting_text, self._busy = frozenset(), False


class EngineHandle:
    """A `ThreadedEngine` over a runner, with the codec states of recent voices, which no other engine can use."""

    def __init__(self, runner: Runner, tokenizer: TextTokenizer) -> None:
        self.engine = engine = ThreadedEngine(Engine(runner, tokenizer, NO_LIMITS), runner.device)
        self._primed = PrimedVoices(lambda codes: engine.exclusively(partial(runner.prime, codes)))

    def requests(self, prompts: Iterable[PlannedPrompt], options: GenerationOptions) -> list[GenerationRequest]:
        """Return a request for each prompt of a batch."""
        return [self._request(prompt, options.for_item(item)) for item, prompt in enumerate(prompts)]

    def _request(self, prompt: PlannedPrompt, options: GenerationOptions) -> GenerationRequest:
        voice = prompt.voice
        return GenerationRequest(
            prompt.plan,
            options.sampling,
            voice=voice.vectors if voice else VoiceVectors(),
            primed=self._primed.get(voice) if voice else None,
            emission=options.emission,
            codes_only=options.codes_only,
        )


def _joined(parts: Sequence[ChunkOutput]) -> GeneratedSpeech:
    return GeneratedSpeech(torch.cat([part.codes for part in parts], -1), torch.cat([part.wave for part in parts]))
