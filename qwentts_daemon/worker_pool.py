"""The engine workers of one daemon: the voice that was chosen, and the embedded one that covers for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from .admission import Priority
from .errors import StartError
from .jobs import Job, Request
from .voices import EngineVoice, best_voice
from .worker_client import WorkerClient, WorkerLost


class WorkerPool:
    """Gives each job to a worker that can speak it now."""

    def __init__(self, primary: WorkerClient, embedded: WorkerClient | None, language: str | None) -> None:
        self.primary = primary
        self._embedded = embedded
        self._language = language

    @property
    def workers(self) -> list[WorkerClient]:
        return [self.primary] + ([self._embedded] if self._embedded else [])

    @property
    def voices(self) -> tuple[EngineVoice, ...]:
        """The chosen engine's; the embedded ones as long as that has none, such as before the first voice is cloned."""
        return self.primary.voices or (self._embedded.voices if self._embedded else ())

    @asynccontextmanager
    async def job(self, request: Request, text: str, priority: Priority) -> AsyncIterator[Job]:
        """Begin a job (see `WorkerClient.job`): with the embedded voice while the chosen one is not ready."""
        async with AsyncExitStack() as stack:
            try:
                if self._is_covered or self._is_embedded(request):
                    raise WorkerLost
                job = await stack.enter_async_context(self.primary.job(request, text, priority))
            except WorkerLost:
                if self._embedded is None:
                    raise
                asked = self._embedded_request(self._embedded, request)
                job = await stack.enter_async_context(self._embedded.job(asked, text, priority))
            yield job

    @property
    def _is_covered(self) -> bool:
        speaks = self.primary.ready and self.primary.voices
        return self._embedded is not None and not self._embedded.failure and not speaks

    def _is_embedded(self, request: Request) -> bool:
        """Whether only the embedded engine has this voice: chosen when the other had none yet."""
        if self._embedded is None or request.voice in {voice.id for voice in self.primary.voices}:
            return False
        return request.voice in {voice.id for voice in self._embedded.voices}

    async def run(self) -> None:
        """Keep every worker alive until cancelled. Raises StartError when none can ever be loaded."""
        async with asyncio.TaskGroup() as tasks:
            for worker in self.workers:
                tasks.create_task(worker.run(), name=f"worker {worker.name}")
        raise StartError(f"no voice can be loaded: {self.primary.failure}")

    def _embedded_request(self, worker: WorkerClient, request: Request) -> Request:
        if request.voice in {voice.id for voice in worker.voices}:
            return request
        voice = best_voice(worker.voices, request.language or self._language or "en")
        style = request.style if request.style in voice.styles else None
        return replace(request, voice=voice.id, language=None, style=style, instruct=None)
