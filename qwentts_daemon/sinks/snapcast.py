"""Plays through Snapcast: 48 kHz stereo into the FIFO of a snapserver, no faster than it is heard."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from ..resampling import Resampler, stereo
from ..session import Pcm, Playback
from ..targets import SnapcastTarget
from .sink import Report, SinkError, drain, play_through

RATE = 48_000
AHEAD_S = 0.2
ATOMIC_BYTES = 4096  # PIPE_BUF: a FIFO takes so much as a whole or not at all, so that no frame is ever torn


class SnapcastSink:
    """The FIFO is opened for each announcement, so that a snapserver may come and go."""

    def __init__(self, target: SnapcastTarget) -> None:
        self._path = Path(target.fifo).expanduser()
        self._timeout_s = target.timeout

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. A FIFO that nobody reads is a SinkError."""
        await play_through(pcm, partial(opened, self._path, self._timeout_s))


class Fifo:
    """The writing end, for sound of one rate."""

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
                await drain(self._writer, str(self._path), self._timeout_s)
        except ConnectionError:
            raise SinkError(f"{self._path}: its reader has gone; did snapserver end?") from None


@contextlib.asynccontextmanager
async def opened(path: Path, timeout_s: float, rate: int) -> AsyncIterator[Fifo]:
    """The FIFO, ready for sound of this rate. Raises SinkError."""
    end = os.fdopen(_open(path), "wb", buffering=0)
    loop = asyncio.get_running_loop()
    unread = asyncio.StreamReader()  # a pipe to write to has a protocol for flow control, which wants a reader
    transport, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(unread), end)
    transport.set_write_buffer_limits(0)
    try:
        yield Fifo(path, asyncio.StreamWriter(transport, protocol, unread, loop), rate, timeout_s)
    finally:
        if not transport.is_closing():  # as it is when its reader has gone; Python 3.11 cannot abort it again
            transport.abort()


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise SinkError(f"{path}: nobody reads this FIFO; is snapserver running?") from error
        raise SinkError(f"{path}: {error.strerror}") from error
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SinkError(f"{path} is no FIFO; snapserver makes it for `source = pipe://{path}?name=…`")
    return descriptor
