"""Plays through a program such as aplay or pw-play, which reads raw samples from its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import AsyncIterator, Sequence
from functools import partial

from ..audio.pcm import Pcm, Playback
from ..config.loader import ENV_PREFIX
from ..config.target_schema import CommandTarget
from ..errors import SinkError
from .base import Report, drain, play_through

STDERR_BYTES = 4096
MESSAGE_LENGTH = 200
LAST_WORDS_S = 0.5  # for the last lines of a player that has ended
GRACE_S = 0.5  # between SIGTERM and SIGKILL
REAP_S = 5.0


class CommandSink:
    """Starts one process for each announcement, at its first audio."""

    def __init__(self, target: CommandTarget) -> None:
        self._words = target.command
        self._timeout_s = target.timeout

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. Raises SinkError for a program that is missing, fails or stops reading."""
        await play_through(pcm, partial(started, self._words, self._timeout_s))


class Exit(SubprocessStreamProtocol):
    """Waits until a program has ended; `Process.wait` may also wait for children that it has left behind."""

    def __init__(self) -> None:
        super().__init__(limit=STDERR_BYTES, loop=asyncio.get_running_loop())
        self.event = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.event.set()


class Program:
    """A running program, its end, and the last lines of its standard error."""

    def __init__(self, name: str, transport: asyncio.SubprocessTransport, ending: Exit, timeout_s: float) -> None:
        self.process = Process(transport, ending, asyncio.get_running_loop())
        self._transport = transport
        self._exit = ending.event
        self._name = name
        self._timeout_s = timeout_s
        self._stderr = b""
        self._playback = Playback()
        self._listening = asyncio.create_task(self._listen(), name=f"stderr of {name}")

    async def write(self, pcm: Pcm) -> None:
        """Write audio; return when the program or its pipe has taken all of it. Raises SinkError."""
        stdin = self.process.stdin
        assert stdin
        self._playback.add(pcm)
        try:
            stdin.write(pcm.samples)
            await drain(stdin, self._name, self._timeout_s)
        except SinkError as error:
            raise SinkError(f"{error}{await self._complaint()}") from None
        except ConnectionError:
            raise SinkError(f"{self._name} ended before the sound did{await self._ending()}") from None

    async def finish(self) -> None:
        """Close its input, and wait until it has played everything. Raises SinkError."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            async with asyncio.timeout(self._playback.left_s() + self._timeout_s):
                await self._exit.wait()
        except TimeoutError:
            late = f"{self._name} still ran {self._timeout_s:g} s after the end of the sound"
            raise SinkError(late + await self._complaint()) from None
        if self.process.returncode:
            raise SinkError(f"{self._name} failed{await self._ending()}")

    async def end(self) -> None:
        """Kill it and its children now, without waiting for one that the kernel cannot end."""
        self._listening.cancel()
        if self.process.returncode is None:
            try:
                self._signal(signal.SIGTERM)
                await self._ended(GRACE_S)
            finally:
                self._signal(signal.SIGKILL)
            await self._ended(REAP_S)
        self._transport.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone, or another user's
            os.killpg(self.process.pid, number)

    async def _ended(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._exit.wait()

    async def _listen(self) -> None:
        """Keep the end of its standard error; an unread pipe would block it."""
        assert self.process.stderr
        while read := await self.process.stderr.read(STDERR_BYTES):
            self._stderr = (self._stderr + read)[-STDERR_BYTES:]

    async def _ending(self) -> str:
        """Return its exit status and last output, as the end of a message."""
        await self._ended(LAST_WORDS_S)
        status = self.process.returncode
        return ("" if status is None else f", status {status}") + await self._complaint()

    async def _complaint(self) -> str:
        await asyncio.wait([self._listening], timeout=0 if self.process.returncode is None else LAST_WORDS_S)
        lines = self._stderr.decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last:.{MESSAGE_LENGTH}}" if last else ""


@contextlib.asynccontextmanager
async def started(template: Sequence[str], timeout_s: float, rate: int) -> AsyncIterator[Program]:
    """Start a program that reads audio of this rate; it ends with the context. Raises SinkError."""
    words = [word.replace("{rate}", str(rate)) for word in template]
    starting = asyncio.create_task(_process(words), name=f"start of {words[0]}")
    try:
        transport, ending = await asyncio.shield(starting)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SinkError(f"{words[0]} cannot be started: {reason}") from error
    except asyncio.CancelledError:
        await _ended_when_started(words[0], starting)
        raise
    program = Program(words[0], transport, ending, timeout_s)
    try:
        yield program
    finally:
        await program.end()


async def _process(words: Sequence[str]) -> tuple[asyncio.SubprocessTransport, Exit]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    transport, ending = await asyncio.get_running_loop().subprocess_exec(
        Exit, *words, stdin=PIPE, stdout=DEVNULL, stderr=PIPE, env=environment, process_group=0
    )
    assert ending.stdin
    ending.stdin.transport.set_write_buffer_limits(0)  # do not buffer here what it has not read
    return transport, ending


async def _ended_when_started(name: str, starting: asyncio.Task[tuple[asyncio.SubprocessTransport, Exit]]) -> None:
    """If cancelled, asyncio would kill the program but not its children, and wait for them."""
    await asyncio.wait([starting])
    if not starting.exception():
        await Program(name, *starting.result(), 0.0).end()
