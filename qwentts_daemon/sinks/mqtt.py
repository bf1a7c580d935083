"""Publishes raw audio on topics of the broker for any subscriber."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial

from ..audio.pcm import Pcm, Playback
from ..errors import SinkError
from .base import Publish, Report, plain, play_through

CHUNK_S = 0.1
AHEAD_S = 0.5  # what a small device can be expected to keep
TIMEOUT_S = 10.0
LAST_WORD_S = 1.0


class MqttSink:
    """`…/audio/<id>/start` (JSON), `/chunk/<number from 0>` (16-bit little-endian mono samples), `/stop` (JSON)."""

    def __init__(self, publish: Publish, base_topic: str) -> None:
        self._publish = publish
        self._topic = f"{base_topic}/audio"

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. After a cancel or failure, `stop` states that the audio is incomplete."""
        await play_through(pcm, partial(begun, self._publish, f"{self._topic}/{plain(announcement)}"))


class AudioTopics:
    """The topics of one announcement."""

    def __init__(self, publish: Publish, topic: str, rate: int) -> None:
        self._publish = publish
        self._topic = topic
        self._size = 2 * round(CHUNK_S * rate)
        self._unsent = bytearray()
        self._chunks = 0
        self._rate = rate
        self._bytes = 0
        self._playback = Playback()

    async def start(self) -> None:
        """Publish the format of the audio that follows."""
        await self._say("start", {"format": "s16le", "rate": self._rate, "width": 2, "channels": 1})

    async def write(self, pcm: Pcm) -> None:
        """See `Player`."""
        self._unsent += pcm.samples
        while len(self._unsent) >= self._size:
            await self._send_chunk()

    async def finish(self) -> None:
        """See `Player`."""
        if self._unsent:
            await self._send_chunk()
        await self.stop(complete=True)
        await asyncio.sleep(self._playback.left_s())

    async def stop(self, complete: bool) -> None:
        """Publish the end of the audio."""
        duration_ms = round(self._bytes / 2 / self._rate * 1000)
        await self._say("stop", {"chunks": self._chunks, "duration_ms": duration_ms, "complete": complete})

    async def _send_chunk(self) -> None:
        chunk = bytes(self._unsent[: self._size])
        await self._send(f"chunk/{self._chunks}", chunk)
        del self._unsent[: self._size]
        self._chunks += 1
        self._bytes += len(chunk)
        self._playback.add(Pcm(self._rate, chunk))
        await asyncio.sleep(self._playback.left_s() - AHEAD_S)

    async def _say(self, word: str, facts: dict[str, object]) -> None:
        await self._send(word, json.dumps(facts).encode())

    async def _send(self, word: str, payload: bytes) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._publish(f"{self._topic}/{word}", payload)
        except TimeoutError:
            raise SinkError(f"the broker took no sound for {TIMEOUT_S:g} s") from None


@contextlib.asynccontextmanager
async def begun(publish: Publish, topic: str, rate: int) -> AsyncIterator[AudioTopics]:
    """Publish the start of audio of this rate and return its topics. Raises SinkError."""
    topics = AudioTopics(publish, topic, rate)
    await topics.start()
    try:
        yield topics
    except BaseException:
        with contextlib.suppress(TimeoutError, SinkError):  # the reason matters more than this last word
            async with asyncio.timeout(LAST_WORD_S):
                await topics.stop(complete=False)
        raise
