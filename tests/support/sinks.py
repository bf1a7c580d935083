"""Sound for tests of sinks: pieces of PCM that come when the test lets them."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import sys
import time
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from qwentts_daemon.audio.pcm import Pcm

RATE = 24_000


def tone(count: int, rate: int = RATE, pitch_hz: float = 440.0) -> bytes:
    """That many samples of a sine."""
    return array("h", (round(9000 * math.sin(2 * math.pi * pitch_hz * n / rate)) for n in range(count))).tobytes()


def cut(samples: bytes, *lengths: int) -> list[bytes]:
    """The samples in pieces of these lengths, over and over; a length is in samples."""
    pieces, begin, turn = [], 0, 0
    while begin < len(samples):
        length = 2 * (lengths[turn % len(lengths)] if lengths else len(samples) // 2)
        pieces.append(samples[begin : begin + length])
        begin, turn = begin + length, turn + 1
    return pieces


async def pcm(*pieces: bytes, rate: int = RATE) -> AsyncGenerator[Pcm, None]:
    """All of it at once."""
    for piece in pieces:
        yield Pcm(rate, piece)


async def watched(seconds: float, ahead_s: float) -> AsyncGenerator[Pcm, None]:
    """Yield audio in pieces of 50 ms; raise if it is read more than `ahead_s` faster than playback."""
    piece, began_s = tone(RATE // 20), 0.0
    for number in range(round(seconds * 20)):
        now_s = time.monotonic()
        began_s = began_s or now_s
        assert number / 20 <= now_s - began_s + ahead_s, "too fast for a loudspeaker"
        yield Pcm(RATE, piece)


class Tap:
    """PCM that the test adds piece by piece; `closed` once the reader has closed it."""

    def __init__(self, rate: int = RATE) -> None:
        self.rate = rate
        self.closed = asyncio.Event()
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def pour(self, samples: bytes) -> None:
        self._pieces.put_nowait(samples)

    def end(self, error: Exception | None = None) -> None:
        self._pieces.put_nowait(error)

    async def pcm(self) -> AsyncGenerator[Pcm, None]:
        try:
            while (piece := await self._pieces.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield Pcm(self.rate, piece)
        finally:
            self.closed.set()


class Facts(dict[str, object]):
    """What a sink reports."""

    def __call__(self, facts: Mapping[str, object]) -> None:
        self.update(facts)


@asynccontextmanager
async def fifo(path: Path) -> AsyncIterator[asyncio.StreamReader]:
    """The reading end of a new FIFO; it ends when the last of those who write to it is gone."""
    os.mkfifo(path)
    reader = asyncio.StreamReader()
    end = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), end)
    try:
        yield reader
    finally:
        transport.close()
        await reader.read()  # closed, not only asked to


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: what a full disk is to a writer."""
    limits, writes_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # Python 3.11 would leave a truncated .pyc of each module imported meanwhile
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = writes_bytecode
