"""One engine worker process as the daemon sees it: spawned, listened to, and spawned again when it dies.

With `engine_setup` the only daemon file that imports `engine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import multiprocessing
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from engine import channel, worker
from engine.backends import BackendError
from engine.messages import (
    AppendText,
    Cancel,
    Chunk,
    Command,
    Done,
    EndText,
    Event,
    Failed,
    Health,
    Hold,
    LoadFailed,
    Memory,
    Ready,
    Started,
    Stop,
    Synthesize,
    Voice,
    Voices,
)
from engine.settings import Settings

from .admission import Admission
from .errors import Code, SpeechError, StartError
from .jobs import Control, Job, Request, Timing

FIRST_RESTART_DELAY_S = 0.1
STEADY_AFTER_S = 60.0
STOP_TIMEOUT_S = 2.0

log = logging.getLogger(__name__)
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a worker and its jobs may take, in seconds."""

    job_timeout_s: float
    heartbeat_timeout_s: float
    restart_delay_max_s: float


class WorkerClient:
    """Runs jobs in one worker process. `run` keeps the process alive until it is cancelled."""

    def __init__(self, settings: Settings, limits: Limits, admission: Admission) -> None:
        """`admission` is told how many jobs this worker takes, in the lane that it gets there."""
        self._settings = settings
        self._limits = limits
        self._admission = admission
        self.lane = admission.add_lane()
        self._jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self._commands: asyncio.WriteTransport | None = None
        try:
            backend = worker.make_backend(settings)
            self.voices: tuple[Voice, ...] = backend.voices()
        except BackendError as error:
            raise StartError(str(error)) from error
        self.takes_new_voices = backend.takes_new_voices
        self.ready = False
        self.failure: str | None = None
        self.pid: int | None = None
        self.gpu_memory_bytes: int | None = None
        self._complaint = ""

    @property
    def name(self) -> str:
        return self._settings.name

    @contextlib.asynccontextmanager
    async def job(self, request: Request, text: str, requested_s: float) -> AsyncIterator[Job]:
        """Begin a job, for which there is a place in the lane; leaving the context cancels what is not finished."""
        job = self._open_job(requested_s)
        try:
            self._send(
                Synthesize(job.id, request.voice, text, False, request.language, request.style, request.instruct)
            )
            yield job
        finally:
            if not job.finished:
                self._send(Cancel(job.id))
            self._jobs.pop(job.id, None)

    def _open_job(self, requested_s: float) -> Job:
        number = next(self._ids)
        control = Control(
            append=lambda text: self._send(AppendText(number, text)),
            end=lambda: self._send(EndText(number)),
            hold=lambda held: self._send(Hold(number, held)),
        )
        job = Job(number, Timing(requested_s, time.monotonic()), control, self._limits.job_timeout_s)
        self._jobs[number] = job
        return job

    def _send(self, command: Command) -> None:
        if self._commands:  # else the worker has just died, and `_lose_jobs` has told the job so
            self._commands.write(channel.pack(command))

    # --- the process ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Spawn the worker, and again after each death, with growing pauses. Returns when it can never be loaded."""
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            began_s = time.monotonic()
            try:
                await self._live_once()
            except OSError as error:  # no more processes or descriptors to be had at present
                log.error("%s cannot be started: %s", self.name, error)
            if self.failure:
                return
            if time.monotonic() - began_s > STEADY_AFTER_S:
                delay_s = FIRST_RESTART_DELAY_S
            pause_s = delay_s * random.uniform(0.5, 1.0)
            level = logging.DEBUG if self._complaint else logging.WARNING
            log.log(level, "%s ended; a new one starts in %.1f s", self.name, pause_s)
            await asyncio.sleep(pause_s)
            delay_s = min(delay_s * 2, self._limits.restart_delay_max_s)

    async def _live_once(self) -> None:
        """One life of the process: from its spawning until it is gone."""
        commands_reader, commands_writer = _spawn.Pipe(duplex=False)
        events_reader, events_writer = _spawn.Pipe(duplex=False)
        channel.enlarge(commands_writer)
        channel.enlarge(events_writer)
        arguments = (self._settings, commands_reader, events_writer, os.getpid())
        process = _spawn.Process(target=worker.run, args=arguments, name=self.name, daemon=True)
        process.start()  # from this thread: the worker's death signal is bound to the thread that made it
        self.pid, handle = process.pid, os.pidfd_open(process.pid or 0)  # now, for whoever starts one reaps the dead
        commands_reader.close()
        events_writer.close()
        try:
            async with self._connected(commands_writer, events_reader) as events:
                await self._listen(events)
        finally:
            self.pid, self.ready, self.gpu_memory_bytes = None, False, None
            self._admission.set_capacity(self.lane, 0)
            self._lose_jobs()
            await _end(process, handle)

    @contextlib.asynccontextmanager
    async def _connected(self, commands: Connection, events: Connection) -> AsyncIterator[asyncio.StreamReader]:
        """Both pipes on the event loop; leaving tells the worker to stop."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=channel.CAPACITY_BYTES)
        incoming, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), events)
        try:
            self._commands, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, commands)
            yield reader
        finally:
            self._send(Stop())
            if self._commands:
                self._commands.close()
                self._commands = None
            incoming.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Take the worker's events until it is gone or has been silent for too long."""
        while True:
            try:
                async with asyncio.timeout(self._limits.heartbeat_timeout_s):
                    event: Event = await channel.receive(reader)
            except channel.ChannelClosed:
                return
            except TimeoutError:
                log.error("%s has been silent for %g s", self.name, self._limits.heartbeat_timeout_s)
                return
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Chunk(number, pcm):
                if job := self._jobs.get(number):
                    job.deliver(pcm)
            case Started(number, rate, received_s, made_s):
                if job := self._jobs.get(number):
                    job.started(rate, received_s, made_s)
            case Done(number, _, busy_s, cut):
                if job := self._jobs.get(number):
                    job.finish(busy_s, cut)
            case Failed(number, code, reason):
                if job := self._jobs.get(number):
                    job.fail(SpeechError(code, reason))
            case Ready(voices, capacity, description):
                self.voices, self.ready = voices, True
                self._admission.set_capacity(self.lane, capacity)
                self._complaint = ""
                log.info("%s is ready: %s", self.name, description)
            case Voices(voices):
                self.voices = voices
            case Memory(used_bytes):
                self.gpu_memory_bytes = used_bytes
            case LoadFailed(reason, permanent):
                self._complain(reason, permanent)
            case Health():
                pass

    def _complain(self, reason: str, permanent: bool) -> None:
        """Say once why the worker cannot be loaded, however often it is tried."""
        advice = "" if permanent else "; it is tried again until it can"
        level = logging.DEBUG if reason == self._complaint else logging.ERROR
        log.log(level, "%s cannot be loaded: %s%s", self.name, reason, advice)
        self._complaint = reason
        self.failure = reason if permanent else None

    def _lose_jobs(self) -> None:
        for job in self._jobs.values():
            if not job.finished:
                job.fail(SpeechError(Code.ENGINE_UNAVAILABLE, "the engine worker ended while it was speaking"))
        self._jobs.clear()


async def _end(process: BaseProcess, handle: int) -> None:
    """Give the process a moment to go, then insist. Its heart may have stopped, so only SIGKILL is sure.

    `handle` is its pidfd: it tells the end without a thread that waits, two of which would take it from each other.
    """
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await _gone(handle)
    finally:  # also when the daemon stops meanwhile: multiprocessing would wait for a living child at exit, for ever
        process.kill()
        await _gone(handle)
        os.close(handle)
        process.join()
        process.close()


async def _gone(handle: int) -> None:
    """Wait until the process behind a pidfd has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
