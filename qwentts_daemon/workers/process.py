"""The operating system's side of an engine worker: spawn the process, connect its pipes, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import pickle
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from engine import host
from engine.ipc import channel
from engine.ipc.messages import Command, Event, Stop
from engine.ipc.settings import Settings

STOP_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 5.0
UNREAD_COMMANDS_BYTES = 4 << 20
"""A worker that leaves this much unread is treated as dead."""

log = logging.getLogger(__name__)
_spawn = multiprocessing.get_context("spawn")


class WorkerProcess:
    """The pipes of a running worker process."""

    def __init__(self, commands: asyncio.WriteTransport, events: asyncio.StreamReader) -> None:
        self._commands = commands
        self._events = events

    def send(self, command: Command) -> None:
        """Send a command without waiting; see `is_choked`."""
        self._commands.write(channel.pack(command))

    async def greeted(self) -> None:
        """Wait until the process runs. Raises VersionMismatch, or ChannelClosed when it has ended."""
        await channel.expect_greeting(self._events)

    async def receive(self) -> Event:
        """Return the next event. Raises ChannelClosed when the process has ended, and ChannelError."""
        event: Event = await channel.receive(self._events)
        return event

    @property
    def is_choked(self) -> bool:
        """Whether the worker does not read its commands, which would fill the memory."""
        return self._commands.get_write_buffer_size() > UNREAD_COMMANDS_BYTES


@contextlib.asynccontextmanager
async def spawned(settings: Settings) -> AsyncIterator[WorkerProcess]:
    """Spawn a worker process; leaving the context stops it, by SIGKILL if need be. Raises OSError."""
    commands_reader, commands_writer = _spawn.Pipe(duplex=False)
    events_reader, events_writer = _spawn.Pipe(duplex=False)
    channel.enlarge(commands_writer)
    channel.enlarge(events_writer)
    arguments = (pickle.dumps(settings), commands_reader, events_writer, os.getpid())
    _ensure_working_directory()
    process = _spawn.Process(target=host.run_worker, args=arguments, name=settings.name, daemon=True)
    process.start()  # from this thread: PR_SET_PDEATHSIG follows the thread that forked
    pidfd = os.pidfd_open(process.pid or 0)  # now: starting another process would reap this one if it is dead
    commands_reader.close()
    events_writer.close()
    try:
        async with _connected(commands_writer, events_reader) as connected:
            yield connected
    finally:
        await _end(process, pidfd)


@contextlib.asynccontextmanager
async def _connected(commands: Connection, events: Connection) -> AsyncIterator[WorkerProcess]:
    """Attach both pipes to the event loop; leaving stops the worker."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=channel.CAPACITY_BYTES)
    incoming, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), events)
    try:
        outgoing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, commands)
        process = WorkerProcess(outgoing, reader)
        try:
            yield process
        finally:
            process.send(Stop())
            outgoing.close()
    finally:
        incoming.close()


def _ensure_working_directory() -> None:
    """Leave a working directory that has been deleted: no process can be spawned in it."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")


async def _end(process: BaseProcess, pidfd: int) -> None:
    """Wait STOP_TIMEOUT_S for the process to exit, then kill it. It may be unresponsive, so SIGTERM is not enough.

    The pidfd reports the exit without a waiting thread: two threads in waitpid() would steal it from each other.
    """
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await _exited(pidfd)
    finally:  # also when this task is cancelled: multiprocessing waits at exit for every living child
        process.kill()
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                await _exited(pidfd)
        except TimeoutError:
            log.error("%s does not die: the GPU's driver hangs, and only a reboot frees the GPU", process.name)
            await _exited(pidfd)
        os.close(pidfd)
        process.join()
        process.close()


async def _exited(pidfd: int) -> None:
    """Wait until the process behind a pidfd has exited."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
