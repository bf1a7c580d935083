"""One engine worker process as the daemon sees it: spawned, listened to, and spawned again when it dies.

With `engine_setup` the only daemon file that imports `engine`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import multiprocessing
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from engine.ipc import channel
from engine.ipc.messages import (
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
    SetLogLevel,
    Started,
    Stop,
    Synthesize,
    Voice,
    Voices,
)
from engine.ipc.settings import Settings
from engine.voices import folder as voice_folder
from engine.worker import process as engine_worker
from engine.worker.backends import BackendError

from ..config.live import LiveConfig
from ..errors import Code, SpeechError, StartError, WorkerLost
from .health import LOOK_EVERY_S, HeartbeatMonitor, WorkerHealth
from .idle import IdleManager
from .job import Control, Job, SynthesisRequest, Timing
from .queue import JobQueue

FIRST_RESTART_DELAY_S = 0.1
STEADY_AFTER_S = 60.0
STOP_TIMEOUT_S = 2.0
KILLED_WITHIN_S = 5.0
UNREAD_COMMANDS_BYTES = 4 << 20
"""A worker that leaves so much unread has no life left in it."""
FOLDER_INTERVAL_S = 2.0

log = logging.getLogger(__name__)
_spawn = multiprocessing.get_context("spawn")


class WorkerClient:
    """Runs jobs in one worker process. `run` keeps the process alive until it is cancelled."""

    def __init__(self, settings: Settings, live: LiveConfig, admission: JobQueue, presence: IdleManager) -> None:
        """`admission` is told how many jobs this worker takes, in the lane that it gets there."""
        self._settings = settings
        self._live = live
        self._admission = admission
        self._presence = presence
        self._pulse: HeartbeatMonitor | None = None  # of a process that is there
        self.lane = admission.add_lane()
        self._jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self._commands: asyncio.WriteTransport | None = None
        try:
            backend = engine_worker.make_backend(settings)
            self.voices: tuple[Voice, ...] = backend.voices()
        except BackendError as error:
            raise StartError(str(error)) from error
        self.takes_new_voices = backend.takes_new_voices
        self.loaded = self.ready = False  # one that is loaded and does not react is not ready
        self.failure: str | None = None
        model = settings.model if self.takes_new_voices else None
        self._folder = Path(model.voices_dir) if model else None
        self._folder_read: object = None  # as it was when the worker told its voices
        self._capacity = 0
        self.pid: int | None = None
        self.gpu_memory_bytes: int | None = None
        self._made_s = math.inf  # when audio or another answer came last
        self._hung = False
        self._complaint = ""

    @property
    def name(self) -> str:
        return self._settings.name

    @contextlib.asynccontextmanager
    async def job(self, request: SynthesisRequest, text: str, requested_s: float) -> AsyncIterator[Job]:
        """Begin a job, for which there is a place in the lane; leaving the context cancels what is not finished."""
        job = self._open_job(requested_s)
        try:
            self._send(
                Synthesize(job.id, request.voice, text, False, request.language, request.style, request.instruct)
            )
            yield job
        except SpeechError as error:
            self._hung |= error.code == Code.DEADLINE_EXCEEDED and self._makes_nothing()
            raise
        finally:
            if not job.finished:
                self._send(Cancel(job.id))
            self._jobs.pop(job.id, None)

    def _open_job(self, requested_s: float) -> Job:
        number = next(self._ids)
        if not self._jobs:
            self._made_s = time.monotonic()
        control = Control(
            append=lambda text: self._send(AppendText(number, text)),
            end=lambda: self._send(EndText(number)),
            hold=lambda held: self._send(Hold(number, held)),
        )
        job = Job(number, Timing(requested_s, time.monotonic()), control, self._live.now.engine.job_timeout)
        self._jobs[number] = job
        return job

    def _send(self, command: Command) -> None:
        if self._commands:  # else the worker has just died, and its jobs have been told so
            self._commands.write(channel.pack(command))

    @property
    def _is_choked(self) -> bool:
        return self._commands is not None and self._commands.get_write_buffer_size() > UNREAD_COMMANDS_BYTES

    def set_log_level(self, level: str) -> None:
        """How much it logs from now on, also after it has been started again."""
        self._settings = replace(self._settings, log_level=level)
        self._send(SetLogLevel(level))

    def trouble(self, silence_s: float) -> str | None:
        """What is wrong with a process that is there: a job past its deadline, or no sign of life for so long."""
        if self._hung:
            return f"{self.name} hangs"
        return f"{self.name} is silent" if self._pulse and self._pulse.pause_s > silence_s else None

    def _makes_nothing(self) -> bool:
        """Whether it has had work, and made nothing of it, for as long as it may be silent, without a reason."""
        engine = self._live.now.engine
        if self._pulse and self._pulse.is_lengthy:
            return False
        return time.monotonic() - self._made_s >= min(engine.job_timeout, engine.heartbeat_timeout)

    # --- the process ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Spawn the worker, and again after each death, with growing pauses, while the engine is wanted.

        Returns when it can never be loaded.
        """
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            await self._rest()
            began_s = time.monotonic()
            try:
                await self._live_once()
            except OSError as error:  # no more processes or descriptors to be had at present
                log.error("%s cannot be started: %s", self.name, error)
            if self.failure:
                return
            if not self._presence.is_wanted:
                log.info("%s has given its GPU back; the next request loads it again", self.name)
                continue
            if time.monotonic() - began_s > STEADY_AFTER_S:
                delay_s = FIRST_RESTART_DELAY_S
            pause_s = delay_s * random.uniform(0.5, 1.0)
            level = logging.DEBUG if self._complaint else logging.WARNING
            log.log(level, "%s ended; a new one starts in %.1f s", self.name, pause_s)
            await asyncio.sleep(pause_s)
            delay_s = min(delay_s * 2, self._live.now.engine.restart_delay_max)

    async def _rest(self) -> None:
        """Wait until somebody wants to hear this engine, or has brought a new voice, which only the model can hear."""
        interval_s = FOLDER_INTERVAL_S if self._folder else None
        while not self._presence.is_wanted:
            if self._folder_seen() != self._folder_read:
                self._presence.wake()
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._presence.wanted()

    def _folder_seen(self) -> object:
        """What would differ if somebody changed the voices folder; nothing where the engine has none."""
        return voice_folder.signature(self._folder) if self._folder else None

    async def _live_once(self) -> None:
        """One life of the process: from its spawning until it is gone."""
        commands_reader, commands_writer = _spawn.Pipe(duplex=False)
        events_reader, events_writer = _spawn.Pipe(duplex=False)
        channel.enlarge(commands_writer)
        channel.enlarge(events_writer)
        arguments = (self._settings, commands_reader, events_writer, os.getpid())
        _stand_somewhere()
        process = _spawn.Process(target=engine_worker.run, args=arguments, name=self.name, daemon=True)
        process.start()  # from this thread: the worker's death signal is bound to the thread that made it
        self.pid, handle = process.pid, os.pidfd_open(process.pid or 0)  # now, for whoever starts one reaps the dead
        self._pulse = pulse = HeartbeatMonitor(self._live.now.engine.heartbeat_timeout)
        self._hung = False
        commands_reader.close()
        events_writer.close()
        try:
            async with self._connected(commands_writer, events_reader) as events, asyncio.TaskGroup() as tasks:
                duties = {"events": self._listen(events, pulse), "pulse": self._watch(pulse), "presence": self._leave()}
                life = [tasks.create_task(duty, name=f"{self.name} {name}") for name, duty in duties.items()]
                await asyncio.wait(life, return_when=asyncio.FIRST_COMPLETED)
                for duty in life:
                    duty.cancel()
        finally:
            self.pid, self.loaded, self.ready, self.gpu_memory_bytes = None, False, False, None
            self._admission.set_capacity(self.lane, 0)
            self._fail_jobs("the engine worker ended while it was speaking")
            self._jobs.clear()
            await _end(process, handle)
            self._pulse, self._hung = None, False

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

    async def _listen(self, reader: asyncio.StreamReader, pulse: HeartbeatMonitor) -> None:
        """Take the worker's events until it is gone."""
        with contextlib.suppress(channel.ChannelClosed):
            while True:
                event: Event = await channel.receive(reader)
                pulse.hear()
                self._take(event, pulse)

    async def _leave(self) -> None:
        """Take no more jobs once the engine is unwanted; whoever comes in this very turn of the loop keeps it."""
        while self._presence.is_wanted:
            await self._presence.unwanted()
        self.loaded = self.ready = False
        self._admission.set_capacity(self.lane, 0)

    async def _watch(self, pulse: HeartbeatMonitor) -> None:
        """Help its clients while it does not react; returns when it is to be replaced."""
        while not (self._hung or self._is_choked):
            pulse.timeout_s = self._live.now.engine.heartbeat_timeout
            condition = pulse.look()
            if condition is WorkerHealth.LOST:
                break
            if self.loaded:
                self._trust(condition, pulse)
            await asyncio.sleep(LOOK_EVERY_S)
        reason = "has made nothing until a job's deadline: it hangs" if self._hung else str(pulse)
        log.error("%s %s%s", self.name, reason, " and reads no commands" if self._is_choked else "")

    def _trust(self, condition: WorkerHealth, pulse: HeartbeatMonitor) -> None:
        """Give it new jobs, and leave it those that it has, as far as it reacts."""
        fit = condition is WorkerHealth.FIT
        if fit != self.ready:
            log.warning("%s %s", self.name, "reacts again" if fit else f"{pulse}; it gets no replies until it reacts")
            self.ready = fit
            self._admission.set_capacity(self.lane, self._capacity if fit else 0)
        if condition is WorkerHealth.STUCK:
            self._admission.set_stuck(self.lane)
            self._fail_jobs("the engine worker does not react")
        elif condition is WorkerHealth.AWAY and self._admission.covered:
            self._fail_jobs("the engine worker does not react", only_silent=True)

    def _take(self, event: Event, pulse: HeartbeatMonitor) -> None:
        if isinstance(event, Chunk | Started | Done | Failed):
            self._made_s = time.monotonic()
        match event:
            case Chunk(number, pcm):
                if job := self._running(number):
                    job.deliver(pcm)
            case Started(number, rate, received_s, made_s):
                if job := self._running(number):
                    job.started(rate, received_s, made_s)
            case Done(number, _, busy_s, cut):
                if job := self._running(number):
                    job.finish(busy_s, cut)
            case Failed(number, code, reason):
                if job := self._running(number):
                    job.fail(SpeechError(code, reason))
            case Ready(voices, capacity, description):
                self.voices, self.loaded, self.ready = voices, True, True
                self._capacity, self._folder_read = capacity, self._folder_seen()
                self._admission.set_capacity(self.lane, capacity)
                self._presence.loaded()
                self._complaint = ""
                log.info("%s is ready: %s", self.name, description)
            case Voices(voices):
                self.voices, self._folder_read = voices, self._folder_seen()
            case Memory(used_bytes):
                self.gpu_memory_bytes = used_bytes
            case LoadFailed(reason, permanent):
                self._complain(reason, permanent)
            case Health(step_s, lengthy):
                pulse.beat(step_s, lengthy)

    def _running(self, number: int) -> Job | None:
        job = self._jobs.get(number)
        return None if job is None or job.finished else job

    def _complain(self, reason: str, permanent: bool) -> None:
        """Say once why the worker cannot be loaded, however often it is tried."""
        advice = "" if permanent else "; it is tried again until it can"
        level = logging.DEBUG if reason == self._complaint else logging.ERROR
        log.log(level, "%s cannot be loaded: %s%s", self.name, reason, advice)
        self._complaint = reason
        self.failure = reason if permanent else None

    def _fail_jobs(self, reason: str, only_silent: bool = False) -> None:
        """Nothing more will be heard of the open jobs; those of which nothing was heard another engine may have."""
        for job in self._jobs.values():
            if job.finished or (only_silent and job.samples):
                continue
            self._send(Cancel(job.id))
            silent = self._admission.covered and not job.samples
            job.fail(WorkerLost() if silent else SpeechError(Code.ENGINE_UNAVAILABLE, reason))


def _stand_somewhere() -> None:
    """A new process begins where this one stands, and could not in a directory that has been deleted."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")


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
        try:
            async with asyncio.timeout(KILLED_WITHIN_S):
                await _gone(handle)
        except TimeoutError:
            log.error("%s does not die: the GPU's driver hangs, and only a reboot frees the GPU", process.name)
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
