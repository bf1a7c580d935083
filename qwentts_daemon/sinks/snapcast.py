"""Plays through Snapcast: 48 kHz stereo into the FIFO of a snapserver, no faster than real time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

from ..audio.pcm import Pcm, Playback
from ..audio.resampler import Resampler, stereo
from ..config.target_schema import SnapcastTarget
from ..errors import SinkError
from .base import Report, drain, play_through

RATE = 48_000
AHEAD_S = 0.2
PIPE_BYTES = 32_768  # 0.17 s: this much is played after a cancel, and a full pipe shows that it has no reader
ATOMIC_BYTES = 4096  # PIPE_BUF: a FIFO takes so much as a whole or not at all, so that no frame is ever torn


class SnapcastSink:
    """Opens the FIFO for each announcement, so that a snapserver may restart."""

    def __init__(self, target: SnapcastTarget) -> None:
        self._path = Path(target.fifo).expanduser()
        self._timeout_s = target.timeout

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. A FIFO without a reader is a SinkError."""
        await play_through(pcm, partial(opened, self._path, self._timeout_s))


class Fifo:
    """The writing end of the FIFO, for audio of one rate."""

    def __init__(self, path: Path, writer: asyncio.StreamWriter, rate: int, timeout_s: float) -> None:
        self._path = path
        self._writer = writer
        self._timeout_s = timeout_s
        self._resampler = Resampler(rate, RATE)
        self._playback = Playback()

    async def write(self, pcm: Pcm) -> None:
        """See `Player`."""
        await self._write(self._resampler.feed(pcm.samples))
        self._playback.add(pcm)
        await asyncio.sleep(self._playback.left_s() - AHEAD_S)

    async def finish(self) -> None:
        """See `Player`."""
        await self._write(self._resampler.end())
        await asyncio.sleep(self._playback.left_s())

    async def _write(self, samples: bytes) -> None:
        frames = stereo(samples)
        try:
            for begin in range(0, len(frames), ATOMIC_BYTES):
                self._writer.write(frames[begin : begin + ATOMIC_BYTES])
                await drain(self._writer, f"FIFO {self._path}", self._timeout_s)
        except SinkError as error:
            raise SinkError(f"{error}; is snapserver running?") from None


@contextlib.asynccontextmanager
async def opened(path: Path, timeout_s: float, rate: int) -> AsyncIterator[Fifo]:
    """Open the FIFO for audio of this rate. Raises SinkError."""
    loop = asyncio.get_running_loop()
    unread = asyncio.StreamReader()  # a pipe to write to has a protocol for flow control, which wants a reader
    with _held_open(path):
        end = os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0)
        transport, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(unread), end)
        transport.set_write_buffer_limits(0)
        try:
            yield Fifo(path, asyncio.StreamWriter(transport, protocol, unread, loop), rate, timeout_s)
        finally:
            transport.abort()


@contextlib.contextmanager
def _held_open(path: Path) -> Iterator[None]:
    """Open both ends of the FIFO. Raises SinkError.

    Without a writer, snapserver opens its FIFO ten times a second and closes it again at once. It stays when it
    finds a writer, but a writer cannot open a FIFO that has no reader at that moment.
    """
    try:
        if not stat.S_ISFIFO(path.stat().st_mode):
            raise SinkError(f"{path} is not a FIFO; snapserver creates one for `source = pipe://{path}?name=…`")
        both_ends = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise SinkError(f"{path}: {error.strerror}; is snapserver running?") from error
    try:
        with contextlib.suppress(OSError):  # with more than that in it, it stays as it is
            fcntl.fcntl(both_ends, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        yield
    finally:
        os.close(both_ends)
