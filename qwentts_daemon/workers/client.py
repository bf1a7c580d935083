"""Client of one engine worker: keeps its process alive, runs jobs in it and knows its voices."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engine import host
from engine.ipc.channel import ChannelClosed, ChannelError, VersionMismatch
from engine.ipc.messages import (
    Chunk,
    Command,
    Done,
    Event,
    Failed,
    Health,
    LoadFailed,
    Memory,
    Ready,
    SetLogLevel,
    Started,
    Voice,
    Voices,
)
from engine.ipc.settings import Settings

from ..config.live import LiveConfig
from ..errors import Code, SpeechError, StartError, first_error
from ..voices.request import SynthesisRequest
from .idle import IdleManager
from .job import Job
from .job_table import JobTable
from .process import WorkerProcess, spawned
from .queue import JobQueue
from .supervisor import HealthSupervisor

FIRST_RESTART_DELAY_S = 0.1
STABLE_AFTER_S = 60.0
FOLDER_INTERVAL_S = 2.0

log = logging.getLogger(__name__)


class WorkerClient:
    """Runs jobs in one worker process. `run` keeps the process alive until it is cancelled."""

    def __init__(self, settings: Settings, live: LiveConfig, queue: JobQueue, idle: IdleManager) -> None:
        """Add a worker to `queue`, whose engine `idle` loads and unloads. Raises StartError."""
        try:
            backend = host.describe_backend(settings)
        except host.BackendError as error:
            raise StartError(str(error)) from error
        self.voices = backend.voices
        self.takes_new_voices = backend.takes_new_voices
        self.slots = queue.add_worker()
        self.failure: str | None = None
        self.gpu_memory_bytes: int | None = None
        self._settings = settings
        self._live = live
        self._queue = queue
        self._idle = idle
        self._jobs = JobTable(self._send)
        self._process: WorkerProcess | None = None
        self._health: HealthSupervisor | None = None  # both are None while no process runs
        model = settings.model if self.takes_new_voices else None
        self._folder = Path(model.voices_dir) if model else None
        self._known_folder: object = None  # its signature when the worker last reported its voices
        self._load_error = ""

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def loaded(self) -> bool:
        """Whether the engine is loaded, even if it does not react at present."""
        return self._health is not None and self._health.loaded

    @property
    def ready(self) -> bool:
        """Whether it takes jobs."""
        return self._health is not None and self._health.ready

    @contextlib.contextmanager
    def job(self, request: SynthesisRequest, text: str, requested_s: float) -> Iterator[Job]:
        """Begin a job in an acquired slot; leaving the context cancels it unless it has finished."""
        try:
            with self._jobs.open(request, text, requested_s, self._live.current.engine.job_timeout) as job:
                yield job
        except SpeechError as error:
            if error.code == Code.DEADLINE_EXCEEDED and self._health:
                self._health.deadline_exceeded()
            raise

    def set_log_level(self, level: str) -> None:
        """Set the log level of the running process and of those that replace it."""
        self._settings = replace(self._settings, log_level=level)
        self._send(SetLogLevel(level))

    def trouble(self, silence_s: float) -> str | None:
        """Describe what is wrong with the running process (see `HealthSupervisor.trouble`)."""
        return self._health.trouble(silence_s) if self._health else None

    def _send(self, command: Command) -> None:
        if self._process:  # otherwise it has just died and its jobs have failed
            self._process.send(command)

    # --- the process ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Spawn the worker and replace it after each death, with exponential back-off, while the engine is active.

        Returns when the engine can never be loaded.
        """
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            began_s = time.monotonic()
            try:
                await self._activated()
                began_s = time.monotonic()
                await self._run_process()
            except Exception as error:  # one worker must not end the daemon
                self._report_error(first_error(error))
            if self.failure:
                return
            if not self._idle.is_active:
                log.info("%s has given its GPU back; the next request loads it again", self.name)
                continue
            if time.monotonic() - began_s > STABLE_AFTER_S:
                delay_s = FIRST_RESTART_DELAY_S
            pause_s = delay_s * random.uniform(0.5, 1.0)
            level = logging.DEBUG if self._load_error else logging.WARNING
            log.log(level, "%s ended; a new one starts in %.1f s", self.name, pause_s)
            await asyncio.sleep(pause_s)
            delay_s = min(delay_s * 2, self._live.current.engine.restart_delay_max)

    async def _activated(self) -> None:
        """Wait until the engine is needed: for a job, or for a new voice, which only the model can encode."""
        interval_s = FOLDER_INTERVAL_S if self._folder else None
        while not self._idle.is_active:
            if self._folder_signature() != self._known_folder:
                self._idle.wake()
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._idle.activated()

    def _folder_signature(self) -> object:
        """Return a value that changes with the voices folder; None for an engine without a folder."""
        return host.voices_signature(self._folder) if self._folder else None

    async def _run_process(self) -> None:
        """Run one process from its spawn until it ends, must be replaced, or is no longer needed."""
        try:
            async with spawned(self._settings) as process:
                health = HealthSupervisor(self.name, self._live, process, self._jobs, self._queue, self.slots)
                self._process, self._health = process, health
                duties = {
                    "events": self._receive(process, health),
                    "health": health.watch(),
                    "idle": self._close_when_idle(health),
                }
                try:
                    async with asyncio.TaskGroup() as tasks:
                        running = [tasks.create_task(duty, name=f"{self.name} {name}") for name, duty in duties.items()]
                        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                        for task in running:
                            task.cancel()
                finally:
                    health.close()
                    self._process = self.gpu_memory_bytes = None
                    self._jobs.fail("the engine worker ended while it was speaking", self._queue.has_fallback)
        finally:
            self._health = None  # not before it is gone: the watchdog waits for a process that cannot be killed

    async def _close_when_idle(self, health: HealthSupervisor) -> None:
        """Return when the engine is no longer needed. A job that begins in the same turn of the event loop keeps it."""
        while self._idle.is_active:
            await self._idle.deactivated()
        health.close()

    async def _receive(self, process: WorkerProcess, health: HealthSupervisor) -> None:
        """Handle the worker's events until its process has ended. Raises ChannelError."""
        try:
            await process.greeted()
        except ChannelClosed:
            log.error(
                "%s ended before it was running; after an upgrade of the packages, restart the service", self.name
            )
            return
        with contextlib.suppress(ChannelClosed):
            while True:
                event = await process.receive()
                health.monitor.message()
                self._handle(event, health)

    def _handle(self, event: Event, health: HealthSupervisor) -> None:
        match event:
            case Started() | Chunk() | Done() | Failed():
                self._jobs.dispatch(event)
            case Health(step_s, long_running):
                health.monitor.heartbeat(step_s, long_running)
            case Ready(voices, capacity, description):
                self._set_voices(voices)
                health.open(capacity)
                self._idle.loaded()
                self._load_error = ""
                log.info("%s is ready: %s", self.name, description)
            case Voices(voices):
                self._set_voices(voices)
            case Memory(used_bytes):
                self.gpu_memory_bytes = used_bytes
            case LoadFailed(reason, permanent):
                self._report_load_error(reason, permanent)
            case _:
                raise ChannelError(f"{type(event).__name__} is not an event")

    def _set_voices(self, voices: tuple[Voice, ...]) -> None:
        self.voices, self._known_folder = voices, self._folder_signature()

    def _report_load_error(self, reason: str, permanent: bool) -> None:
        """Log a reason once, however many attempts it makes fail."""
        advice = "" if permanent else "; it is tried again until it can"
        level = logging.DEBUG if reason == self._load_error else logging.ERROR
        log.log(level, "%s cannot be loaded: %s%s", self.name, reason, advice)
        self._load_error = reason
        self.failure = reason if permanent else None

    def _report_error(self, error: BaseException) -> None:
        """Log why a process could not be started, or must be replaced."""
        match error:
            case VersionMismatch():
                self._report_load_error(f"{error}; restart the service", permanent=True)
            case ChannelError():
                log.error("%s sent what is not a message, and is replaced: %s", self.name, error)
            case OSError():  # out of processes or file descriptors
                log.error("%s cannot be started: %s", self.name, error)
            case _:
                log.error("%s is replaced after an unexpected error", self.name, exc_info=error)
