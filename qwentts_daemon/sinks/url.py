"""Offers each announcement at an address, for players that fetch what they play."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial

from ..session import Pcm
from ..shelf import Recording, Shelf, ShelfError
from ..targets import UrlTarget
from .sink import Report, SinkError, play_through


class UrlSink:
    """Recordings on the shelf of the HTTP server."""

    def __init__(self, target: UrlTarget, shelf: Shelf) -> None:
        self._timeout_s = target.timeout
        self._shelf = shelf

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. Reports the address as soon as it leads to sound; over when a player has had time to play it.

        An address that nobody asks for is a SinkError, but stays.
        """
        await play_through(pcm, partial(offered, self._shelf, self._timeout_s, report))


class Offer:
    """A recording that is being made and fetched."""

    def __init__(self, recording: Recording, timeout_s: float) -> None:
        self.recording = recording
        self._timeout_s = timeout_s

    async def write(self, pcm: Pcm) -> None:
        """Takes it at once: the players fetch at their own pace. Raises SinkError."""
        try:
            self.recording.append(pcm.samples)
        except ShelfError as error:
            raise SinkError(str(error)) from error

    async def finish(self) -> None:
        """See `Player`."""
        self.recording.complete()
        try:
            async with asyncio.timeout(self._timeout_s):
                began_s = await self.recording.first_fetched()
        except TimeoutError:
            late = f"within {self._timeout_s:g} s of the last word; does an automation play it?"
            raise SinkError(f"nobody has fetched {self.recording.url} {late}") from None
        await asyncio.sleep(began_s + self.recording.duration_s - time.monotonic())


@contextlib.asynccontextmanager
async def offered(shelf: Shelf, timeout_s: float, report: Report, rate: int) -> AsyncIterator[Offer]:
    """A new recording, whose address is reported; withdrawn when it fails or is cancelled. Raises SinkError."""
    try:
        recording = shelf.begin(rate)
    except ShelfError as error:
        raise SinkError(str(error)) from error
    try:
        report({"url": recording.url})
        yield Offer(recording, timeout_s)
    except BaseException as error:
        if not (isinstance(error, SinkError) and recording.is_complete):
            recording.withdraw()
        raise
