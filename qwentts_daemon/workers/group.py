"""The workers of one engine, a process for each device, behind one waiting line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ..errors import Code, SpeechError, WorkerLost
from ..voices.catalog import EngineVoice
from .idle import IdleManager
from .job import Job, SynthesisRequest
from .process import WorkerClient
from .queue import JobQueue, Priority


class WorkerGroup:
    """Speaks as long as one of its workers does. All of them have the same model, so each job fits any."""

    def __init__(self, workers: Sequence[WorkerClient], admission: JobQueue, presence: IdleManager) -> None:
        """`admission` and `presence` are those that the workers were made with."""
        self.workers = tuple(workers)
        self._admission = admission
        self._presence = presence
        self._by_lane = {worker.lane: worker for worker in workers}

    @property
    def ready(self) -> bool:
        return any(worker.ready for worker in self.workers)

    @property
    def running(self) -> int:
        """How many jobs it speaks at present."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        return self._admission.waiting

    @property
    def state(self) -> str:
        """Why it cannot speak at present, in a few words; empty when it can."""
        name = self.workers[0].name
        if self.ready:
            return ""
        if self.failure:
            return f"{name} cannot be loaded: {self.failure}"
        if self.loaded:
            return f"{name} does not react"
        return f"{name} rests" if self.rests else f"loading {name}"

    def trouble(self, silence_s: float) -> str | None:
        """What is wrong with one of its workers (see `WorkerClient.trouble`)."""
        return next(filter(None, (worker.trouble(silence_s) for worker in self.workers)), None)

    def set_log_level(self, level: str) -> None:
        """How much its workers log from now on."""
        for worker in self.workers:
            worker.set_log_level(level)

    @property
    def loaded(self) -> bool:
        """Whether the engine holds its GPU."""
        return any(worker.loaded for worker in self.workers)

    @property
    def rests(self) -> bool:
        """Whether it has given its GPU back, or does so now."""
        return not self._presence.is_wanted

    def unload(self) -> None:
        """Give the GPU back now, or after the last job; the next one loads the engine again."""
        self._presence.unload()

    def wake(self) -> None:
        """Load the engine if it has given its GPU back."""
        self._presence.wake()

    @property
    def failure(self) -> str | None:
        """Why none of them can ever be loaded."""
        failures = [worker.failure for worker in self.workers]
        return failures[0] if all(failures) else None

    @property
    def gpu_memory_bytes(self) -> int | None:
        """In use on all of their GPUs."""
        known = [worker.gpu_memory_bytes for worker in self.workers if worker.gpu_memory_bytes is not None]
        return sum(known) if known else None

    @property
    def takes_new_voices(self) -> bool:
        """Whether voices may come while it runs."""
        return self.workers[0].takes_new_voices

    @property
    def voices(self) -> tuple[EngineVoice, ...]:
        """What every ready worker has, since one finds a new voice a moment before the other."""
        first, *others = [worker for worker in self.workers if worker.ready] or self.workers
        shared = [{voice.id for voice in worker.voices} for worker in others]
        return tuple(voice for voice in first.voices if all(voice.id in names for names in shared))

    @asynccontextmanager
    async def job(self, request: SynthesisRequest, text: str, priority: Priority) -> AsyncIterator[Job]:
        """Wait for a turn and begin a job; leaving the context cancels what is not finished. Raises SpeechError."""
        requested_s = time.monotonic()
        with self._presence.job():
            worker = await self._enter(priority)
            try:
                async with worker.job(request, text, requested_s) as job:
                    yield job
            finally:
                self._admission.leave(worker.lane)

    async def run(self) -> None:
        """Keep every worker alive until cancelled. Returns when none can ever be loaded."""
        async with asyncio.TaskGroup() as tasks:
            for worker in self.workers:
                tasks.create_task(worker.run(), name=f"worker {worker.name}")
        assert self.failure, "a worker ended without a reason"
        self._admission.close(SpeechError(Code.ENGINE_UNAVAILABLE, self.failure))

    async def _enter(self, priority: Priority) -> WorkerClient:
        """A ready worker with a place for this job. Raises WorkerLost when the last one has just gone."""
        while True:
            lane = await self._admission.enter(priority)
            if self._by_lane[lane].ready:
                return self._by_lane[lane]
            self._admission.leave(lane)  # it died after it had let this job in
            if not self.ready:
                raise WorkerLost
