"""The engines of one daemon: the primary one, and the fallback engine that takes over for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from ..config.live import LiveConfig
from ..errors import Code, SpeechError, StartError, WorkerLost
from ..voices.catalog import EngineVoice, best_voice
from ..voices.request import SynthesisRequest
from .group import WorkerGroup
from .job import Job
from .queue import Turn


class WorkerPool:
    """Passes each job to an engine that can speak it now. `primary` is the engine that the configuration selects."""

    def __init__(self, live: LiveConfig, primary: WorkerGroup, fallback: WorkerGroup | None) -> None:
        self._live = live
        self.primary = primary
        self._fallback = fallback
        self._groups = [primary, fallback] if fallback else [primary]

    @property
    def running(self) -> int:
        """The number of running jobs."""
        return sum(group.running for group in self._groups)

    @property
    def waiting(self) -> int:
        """The number of waiting jobs."""
        return sum(group.waiting for group in self._groups)

    def trouble(self, silence_s: float) -> str | None:
        """Describe what is wrong with a worker (see `HealthSupervisor.trouble`)."""
        return next(filter(None, (group.trouble(silence_s) for group in self._groups)), None)

    def set_log_level(self, level: str) -> None:
        """Set the log level of every worker."""
        for group in self._groups:
            group.set_log_level(level)

    @property
    def ready(self) -> bool:
        """Whether it can speak now, or after loading on demand."""
        return any(group.ready or group.unloaded for group in self._groups)

    @property
    def stands_in(self) -> bool:
        """Whether the fallback engine is used only because this machine cannot run Qwen3 (`engine.backend: auto`)."""
        engine = self._live.current.engine
        return self._fallback is None and engine.backend == "auto" and engine.fallback

    @property
    def voices(self) -> tuple[EngineVoice, ...]:
        """The voices of the primary engine, or of the fallback engine while that list is empty."""
        return self.primary.voices or (self._fallback.voices if self._fallback else ())

    @asynccontextmanager
    async def job(self, request: SynthesisRequest, text: str, turn: Turn, again: bool = False) -> AsyncIterator[Job]:
        """Begin a job (see `WorkerGroup.job`), with the fallback voice while the primary engine cannot speak.

        With `again` the primary engine is skipped: it has been lost with this text.
        """
        async with AsyncExitStack() as stack:
            yield await self._begin(stack, request, text, turn, again)

    async def _begin(self, stack: AsyncExitStack, request: SynthesisRequest, text: str, turn: Turn, again: bool) -> Job:
        if not (again or self._only_fallback_has(request.voice)):
            if self._primary_takes_jobs:
                try:
                    return await stack.enter_async_context(self.primary.job(request, text, turn))
                except SpeechError as error:  # lost while this job was waiting, or too busy for it
                    if self._fallback is None or not (
                        isinstance(error, WorkerLost) or error.code == Code.QUEUE_TIMEOUT
                    ):
                        raise
            else:
                self.primary.wake()
        if self._fallback is None:
            raise WorkerLost
        request = self._fallback_request(self._fallback, request)
        return await stack.enter_async_context(self._fallback.job(request, text, turn))

    def exceeds_share(self, client: str) -> bool:
        """Whether `client` holds more than its share of the primary engine's slots while others wait for one."""
        return self.primary.exceeds_share(client)

    @property
    def _primary_takes_jobs(self) -> bool:
        """Whether the primary engine can speak now, or jobs must wait for it because a working fallback is missing."""
        speaks = self.primary.ready and bool(self.primary.voices)
        return speaks or self._fallback is None or self._fallback.failure is not None

    def _only_fallback_has(self, voice: str) -> bool:
        """Whether only the fallback engine has `voice`: it was chosen before the primary engine had voices."""
        if self._fallback is None or voice in {each.id for each in self.primary.voices}:
            return False
        return voice in {each.id for each in self._fallback.voices}

    async def run(self) -> None:
        """Keep every worker alive until cancelled. Raises StartError when every engine has failed for good."""
        async with asyncio.TaskGroup() as tasks:
            for group in self._groups:
                tasks.create_task(group.run(), name=f"workers {group.workers[0].name}")
        raise StartError(f"no voice can be loaded: {self.primary.failure}")

    def _fallback_request(self, group: WorkerGroup, request: SynthesisRequest) -> SynthesisRequest:
        if request.voice in {voice.id for voice in group.voices}:
            return request
        voice = best_voice(group.voices, request.language or self._live.current.voices.language or "en")
        style = request.style if request.style in voice.styles else None
        return replace(request, voice=voice.id, language=None, style=style, instruct=None)
