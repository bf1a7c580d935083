"""Serves each announcement at an address, for players that fetch audio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from ..audio.pcm import Pcm
from ..config.target_schema import UrlTarget
from ..errors import SinkError
from ..http.recordings import RecordingError, RecordingStore, StoredRecording
from .base import Report


class UrlSink:
    """Adds recordings to the store of the HTTP server."""

    def __init__(self, target: UrlTarget, store: RecordingStore) -> None:
        self._timeout_s = target.timeout
        self._store = store

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. Reports the address before it reads the first audio.

        Ends once a player has had time to play it. An address that is never fetched is a SinkError, but stays valid.
        """
        with offered(self._store) as recording:
            report({"url": recording.url})
            async for piece in pcm:
                _append(recording, piece)  # at once: players fetch at their own pace
            if not recording.size:
                recording.withdraw()
                return
            recording.complete()
            await self._played(recording)

    async def _played(self, recording: StoredRecording) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                began_s = await recording.first_fetched()
        except TimeoutError:
            late = f"within {self._timeout_s:g} s of the last word; does an automation play it?"
            raise SinkError(f"no player has fetched {recording.url} {late}") from None
        await asyncio.sleep(began_s + recording.duration_s - time.monotonic())


@contextlib.contextmanager
def offered(store: RecordingStore) -> Iterator[StoredRecording]:
    """Create a recording, which is withdrawn after a failure or cancel. Raises SinkError."""
    try:
        recording = store.begin()
    except RecordingError as error:
        raise SinkError(str(error)) from error
    try:
        yield recording
    except BaseException as error:
        if not (isinstance(error, SinkError) and recording.is_complete):
            recording.withdraw()
        raise


def _append(recording: StoredRecording, pcm: Pcm) -> None:
    try:
        recording.append(pcm)
    except RecordingError as error:
        raise SinkError(str(error)) from error
