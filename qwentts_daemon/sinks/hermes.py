"""Sends a whole WAV file to the loudspeaker of a Rhasspy site, which reports when it has been played."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from ..audio.pcm import Pcm
from ..audio.wav import header
from ..config.target_schema import HermesTarget
from ..errors import SinkError
from .base import Publish, Report, plain, play_through
from .hermes_site import PlayAcks, play_topic

MAX_BYTES = 32 << 20
"""Over ten minutes of speech."""


class HermesSink:
    """Rhasspy plays files, so playback starts only after the whole text has been synthesized."""

    def __init__(self, target: HermesTarget, publish: Publish, acks: PlayAcks) -> None:
        self._target = target
        self._publish = publish
        self._acks = acks

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. Raises SinkError for a site that does not answer in time."""
        await play_through(pcm, partial(self._collected, plain(announcement)))

    @contextlib.asynccontextmanager
    async def _collected(self, request: str, rate: int) -> AsyncIterator[WholeFile]:
        try:
            yield WholeFile(self._target, self._publish, rate, request, self._acks.expect(request))
        finally:
            self._acks.forget(request)


class WholeFile:
    """Collects the audio in one WAV file."""

    def __init__(
        self, target: HermesTarget, publish: Publish, rate: int, request: str, finished: asyncio.Event
    ) -> None:
        self._target = target
        self._publish = publish
        self._rate = rate
        self._request = request
        self._finished = finished
        self._samples = bytearray()

    async def write(self, pcm: Pcm) -> None:
        """See `Player`."""
        if len(self._samples) + len(pcm.samples) > MAX_BYTES:
            raise SinkError(f"more than {MAX_BYTES >> 20} MiB, too much for one message to Rhasspy")
        self._samples += pcm.samples

    async def finish(self) -> None:
        """See `Player`."""
        site, size = self._target.site, len(self._samples)
        await self._publish(play_topic(site, self._request), header(self._rate, size) + self._samples)
        try:
            async with asyncio.timeout(size / 2 / self._rate + self._target.timeout):
                await self._finished.wait()
        except TimeoutError:
            late = f"{self._target.timeout:g} s after the end of the sound"
            raise SinkError(f"Rhasspy's site {site} did not send playFinished, {late}") from None
