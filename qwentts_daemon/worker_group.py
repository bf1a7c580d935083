"""The workers of one engine, a process for each device, behind one waiting line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .admission import Admission, Priority
from .errors import Code, SpeechError, WorkerLost
from .jobs import Job, Request
from .voices import EngineVoice
from .worker_client import WorkerClient


class WorkerGroup:
    """Speaks as long as one of its workers does. All of them have the same model, so each job fits any."""

    def __init__(self, workers: Sequence[WorkerClient], admission: Admission) -> None:
        """`admission` is the one that the workers were made with."""
        self.workers = tuple(workers)
        self._admission = admission
        self._by_lane = {worker.lane: worker for worker in workers}

    @property
    def ready(self) -> bool:
        return any(worker.ready for worker in self.workers)

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
    async def job(self, request: Request, text: str, priority: Priority) -> AsyncIterator[Job]:
        """Wait for a turn and begin a job; leaving the context cancels what is not finished. Raises SpeechError."""
        requested_s = time.monotonic()
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
