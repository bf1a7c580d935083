"""Plays on a Wyoming sound server, such as wyoming-snd-external."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import unquote, urlsplit

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.snd import Played

from ..audio.pcm import Pcm, Playback
from ..config.target_schema import WyomingTarget
from ..errors import SinkError, WireError
from ..wyoming.wire import HEADER_BYTES, encode_event, read_event
from .base import Report, drain, play_through

AHEAD_S = 0.5  # the most audio buffered at the server, which may still play it after a cancel


class WyomingSink:
    """Opens one connection for each announcement."""

    def __init__(self, target: WyomingTarget) -> None:
        self._uri = target.uri
        self._timeout_s = target.timeout

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. Waits for `played`, with a bound."""
        await play_through(pcm, partial(connected, self._uri, self._timeout_s))


class SoundServer:
    """A connection on which audio has started. An event of the server meanwhile is `played`, or the end."""

    def __init__(self, uri: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._uri = uri
        self._writer = writer
        self._timeout_s = timeout_s
        self._playback = Playback()
        self._played = asyncio.create_task(self._hear(reader), name=f"answer of {uri}")

    async def write(self, pcm: Pcm) -> None:
        """See `Player`."""
        await self.send(AudioChunk(pcm.rate, 2, 1, pcm.samples).event())
        self._playback.add(pcm)
        await asyncio.sleep(self._playback.left_s() - AHEAD_S)

    async def finish(self) -> None:
        """See `Player`."""
        await self.send(AudioStop().event())
        try:
            async with asyncio.timeout(self._playback.left_s() + self._timeout_s):
                await self._played
        except TimeoutError:
            late = f"did not send `played` within the {self._timeout_s:g} s after the end of the sound"
            raise SinkError(f"{self._uri} {late}") from None

    async def send(self, event: Event) -> None:
        """Raise SinkError, with the server's reason if it sent one."""
        if self._played.done():
            self._played.result()
        try:
            self._writer.write(encode_event(event))
            await drain(self._writer, self._uri, self._timeout_s)
        except ConnectionError:
            await asyncio.wait([self._played], timeout=self._timeout_s)
            if self._played.done():
                self._played.result()
            raise SinkError(f"{self._uri} closed the connection") from None

    async def close(self) -> None:
        """Close the connection at once; unsent audio is dropped."""
        self._played.cancel()
        await asyncio.wait([self._played])
        if not self._played.cancelled():
            self._played.exception()
        self._writer.transport.abort()

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """Wait for `played`. Raises SinkError if the connection ends before."""
        try:
            while event := await read_event(reader):
                if Played.is_type(event.type):
                    return
                if Error.is_type(event.type):
                    raise SinkError(f"{self._uri}: {event.data.get('text')!s:.200}")
        except ConnectionError:
            pass  # it has closed the connection in haste
        except (OSError, WireError) as error:
            raise SinkError(f"{self._uri}: {error}") from error
        raise SinkError(f"{self._uri} closed the connection before the sound was played")


@contextlib.asynccontextmanager
async def connected(uri: str, timeout_s: float, rate: int) -> AsyncIterator[SoundServer]:
    """Connect to a sound server and announce mono audio of this rate. Raises SinkError."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connection(uri)
    except TimeoutError:
        raise SinkError(f"{uri} does not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise SinkError(f"{uri}: {error.strerror or error}") from error
    writer.transport.set_write_buffer_limits(0)
    server = SoundServer(uri, reader, writer, timeout_s)
    try:
        await server.send(AudioStart(rate, 2, 1).event())
        yield server
    finally:
        await server.close()


async def _connection(uri: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(uri)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(unquote(parts.path), limit=HEADER_BYTES)
    return await asyncio.open_connection(parts.hostname, parts.port, limit=HEADER_BYTES)
