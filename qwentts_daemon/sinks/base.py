"""The interface of sinks, and helpers that most of them use."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

from ..audio.pcm import Pcm
from ..errors import SinkError

Report = Callable[[Mapping[str, object]], None]
"""Takes facts for the announcement's events, such as {"url": ...}."""


class Sink(Protocol):
    """Plays the announcements of one target, one after the other."""

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """Play one announcement (its id) to its end as it arrives, at the pace of the loudspeaker.

        Raises SinkError. Cancelled: silent at once, everything released.
        """


class Publish(Protocol):
    """Publishes one MQTT message. Raises SinkError if no broker is connected."""

    async def __call__(self, topic: str, payload: bytes) -> None: ...


class Player(Protocol):
    """The playback of one announcement by a sink."""

    async def write(self, pcm: Pcm) -> None:
        """Write audio; return when the loudspeaker can soon take more. Raises SinkError."""

    async def finish(self) -> None:
        """End the audio and return once it has been played. Raises SinkError."""


async def play_through(pcm: AsyncIterator[Pcm], opened: Callable[[int], AbstractAsyncContextManager[Player]]) -> None:
    """Write all audio to a player that is opened for its rate at the first chunk."""
    player: Player | None = None
    async with AsyncExitStack() as stack:
        async for piece in pcm:
            if player is None:
                player = await stack.enter_async_context(opened(piece.rate))
            await player.write(piece)
        if player:
            await player.finish()


async def drain(writer: asyncio.StreamWriter, name: str, timeout_s: float) -> None:
    """Wait until the other side has taken what was written. Raises SinkError, and ConnectionError when it has gone."""
    try:
        async with asyncio.timeout(timeout_s):
            await writer.drain()
    except TimeoutError:
        raise SinkError(f"{name} took no sound for {timeout_s:g} s") from None


def plain(announcement: str) -> str:
    """Return the id of an announcement as a word that is safe in topics and file names."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", announcement)[:64] or "_"
