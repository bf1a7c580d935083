"""The workers of one engine, one process per device, behind one queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ..errors import Code, SpeechError, WorkerLost
from ..voices.catalog import EngineVoice
from ..voices.request import SynthesisRequest
from .client import WorkerClient
from .idle import IdleManager
from .job import Job
from .queue import JobQueue, Turn


class WorkerGroup:
    """Speaks as long as one of its workers does. All have the same model, so any of them can run any job."""

    def __init__(self, workers: Sequence[WorkerClient], queue: JobQueue, idle: IdleManager) -> None:
        """`queue` and `idle` are those of the workers."""
        self.workers = tuple(workers)
        self._queue = queue
        self._idle = idle
        self._by_slots = {worker.slots: worker for worker in workers}

    @property
    def ready(self) -> bool:
        return any(worker.ready for worker in self.workers)

    @property
    def running(self) -> int:
        """The number of running jobs."""
        return self._queue.running

    @property
    def waiting(self) -> int:
        """The number of waiting jobs."""
        return self._queue.waiting

    def exceeds_share(self, client: str) -> bool:
        """Whether `client` holds more than its share of the slots while others wait for one."""
        return self._queue.exceeds_share(client)

    @property
    def state(self) -> str:
        """Why it cannot speak at present, in a few words; empty if it can."""
        name = self.workers[0].name
        if self.ready:
            return ""
        if self.failure:
            return f"{name} cannot be loaded: {self.failure}"
        if self.loaded:
            return f"{name} does not react"
        return f"{name} rests" if self.unloaded else f"loading {name}"

    def trouble(self, silence_s: float) -> str | None:
        """Describe what is wrong with one of its workers (see `HealthSupervisor.trouble`)."""
        return next(filter(None, (worker.trouble(silence_s) for worker in self.workers)), None)

    def set_log_level(self, level: str) -> None:
        """Set the log level of every worker."""
        for worker in self.workers:
            worker.set_log_level(level)

    @property
    def loaded(self) -> bool:
        """Whether the engine is loaded in any worker."""
        return any(worker.loaded for worker in self.workers)

    @property
    def unloaded(self) -> bool:
        """Whether it is unloaded, or unloading, for being idle."""
        return not self._idle.is_active

    def unload(self) -> None:
        """Unload the engine now, or after the last job. The next job loads it again."""
        self._idle.unload()

    def wake(self) -> None:
        """Load the engine if it is unloaded."""
        self._idle.wake()

    @property
    def failure(self) -> str | None:
        """Why no worker can ever be loaded; None if one can."""
        failures = [worker.failure for worker in self.workers]
        return failures[0] if all(failures) else None

    @property
    def gpu_memory_bytes(self) -> int | None:
        """Memory in use on all of their GPUs, by any process; None if unknown."""
        known = [worker.gpu_memory_bytes for worker in self.workers if worker.gpu_memory_bytes is not None]
        return sum(known) if known else None

    @property
    def takes_new_voices(self) -> bool:
        """Whether voices may be added while it runs."""
        return self.workers[0].takes_new_voices

    @property
    def voices(self) -> tuple[EngineVoice, ...]:
        """The voices of every ready worker: one finds a new voice a moment before another."""
        first, *others = [worker for worker in self.workers if worker.ready] or self.workers
        shared = [{voice.id for voice in worker.voices} for worker in others]
        return tuple(voice for voice in first.voices if all(voice.id in names for names in shared))

    @asynccontextmanager
    async def job(self, request: SynthesisRequest, text: str, turn: Turn) -> AsyncIterator[Job]:
        """Wait for a slot and begin a job; leaving the context cancels an unfinished one. Raises SpeechError."""
        requested_s = time.monotonic()
        with self._idle.job():
            worker = await self._acquire(turn)
            try:
                with worker.job(request, text, requested_s) as job:
                    yield job
            finally:
                self._queue.release(worker.slots, turn)

    async def run(self) -> None:
        """Keep every worker alive until cancelled. Returns when the engine can never be loaded."""
        async with asyncio.TaskGroup() as tasks:
            for worker in self.workers:
                tasks.create_task(worker.run(), name=f"worker {worker.name}")
        assert self.failure, "a worker ended without a reason"
        self._queue.close(SpeechError(Code.ENGINE_UNAVAILABLE, self.failure))

    async def _acquire(self, turn: Turn) -> WorkerClient:
        """Acquire a slot of a ready worker. Raises WorkerLost if the last one has just died."""
        while True:
            slots = await self._queue.acquire(turn)
            if self._by_slots[slots].ready:
                return self._by_slots[slots]
            self._queue.release(slots, turn)  # it died after the slot had been assigned
            if not self.ready:
                raise WorkerLost
