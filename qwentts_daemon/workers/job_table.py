"""The open jobs of one worker and the events that belong to them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.ipc.messages import Cancel, Chunk, Command, Done, Failed, Started, Synthesize

from ..errors import Code, SpeechError, WorkerLost
from ..voices.request import SynthesisRequest
from .job import Job, Timing

JobEvent = Started | Chunk | Done | Failed


class JobTable:
    """Maps job ids to open jobs. It outlives the worker's processes, so an id is never used twice."""

    def __init__(self, send: Callable[[Command], None]) -> None:
        """`send` passes a command to the worker, or drops it while the worker does not run."""
        self._send = send
        self._jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self._last_output_s = math.inf

    @contextmanager
    def open(self, request: SynthesisRequest, text: str, requested_s: float, timeout_s: float) -> Iterator[Job]:
        """Begin a job in the worker; leaving the context cancels it unless it has finished."""
        if all(job.finished for job in self._jobs.values()):
            self._last_output_s = time.monotonic()
        job = Job(next(self._ids), Timing(requested_s, time.monotonic()), self._send, timeout_s)
        self._jobs[job.id] = job
        try:
            self._send(
                Synthesize(job.id, request.voice, text, False, request.language, request.style, request.instruct)
            )
            yield job
        finally:
            if not job.finished:
                self._send(Cancel(job.id))
            del self._jobs[job.id]

    @property
    def silent_s(self) -> float:
        """Seconds since the worker last answered any job; meaningless while all jobs are finished."""
        return time.monotonic() - self._last_output_s

    def dispatch(self, event: JobEvent) -> None:
        """Pass an event to its job. Events of finished or cancelled jobs are dropped."""
        self._last_output_s = time.monotonic()
        job = self._jobs.get(event.job)
        if job is None or job.finished:
            return
        match event:
            case Started(_, rate, received_s, made_s):
                job.started(rate, received_s, made_s)
            case Chunk(_, pcm):
                job.deliver(pcm)
            case Done(_, _, busy_s, cut):
                job.finish(busy_s, cut)
            case Failed(_, code, reason):
                job.fail(SpeechError(code, reason))

    def fail(self, reason: str, has_fallback: bool, only_silent: bool = False) -> None:
        """Fail and cancel the open jobs, or with `only_silent` those without any audio yet.

        With `has_fallback` a job without audio gets WorkerLost, so that another engine can speak its text.
        """
        for job in self._jobs.values():
            if job.finished or (only_silent and job.samples):
                continue
            self._send(Cancel(job.id))
            lost = has_fallback and not job.samples
            job.fail(WorkerLost() if lost else SpeechError(Code.ENGINE_UNAVAILABLE, reason))
