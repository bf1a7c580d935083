"""One speech, written once and read by several, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from ..errors import Code, QwenTtsError, SpeechError
from .pcm import Pcm

MAX_BYTES = 32 << 20
"""More than ten minutes at 24 kHz: a reader that is further behind does not play in real time."""


class BroadcastBuffer:
    """Keeps what the slowest reader has not read yet, so that readers do not wait for each other."""

    def __init__(self, readers: Iterable[str]) -> None:
        self._news = {reader: asyncio.Event() for reader in readers}
        self._positions = dict.fromkeys(self._news, 0)
        self._kept: list[Pcm] = []
        self._forgotten = 0
        self._ended = False
        self._error: QwenTtsError | None = None
        self.kept_bytes = 0
        self.seconds = 0.0

    def write(self, pcm: Pcm) -> None:
        """Append audio. Raises SpeechError if too much of it is kept."""
        if self.kept_bytes > MAX_BYTES:
            raise SpeechError(Code.TEXT_TOO_LONG, f"the speech takes more than {MAX_BYTES >> 20} MiB")
        self.seconds += len(pcm.samples) / 2 / pcm.rate
        if self._positions:
            self._kept.append(pcm)
            self.kept_bytes += len(pcm.samples)
        self._tell()

    def end(self, error: QwenTtsError | None = None) -> None:
        """Mark the end; with an `error`, every reader raises it there."""
        self._ended, self._error = True, error
        self._tell()

    async def read(self, reader: str) -> AsyncGenerator[Pcm, None]:
        """Yield the audio from its start to its end, as it is written."""
        news = self._news[reader]
        while True:
            while (pcm := self._next(reader)) is not None:
                yield pcm
            if self._ended:
                break
            news.clear()
            await news.wait()
        if self._error:
            raise self._error

    def leave(self, reader: str) -> None:
        """Remove a reader, and the audio that only it had not read."""
        self._positions.pop(reader, None)
        self._forget()

    def _next(self, reader: str) -> Pcm | None:
        place = self._positions.get(reader)
        if place is None or place - self._forgotten >= len(self._kept):
            return None
        pcm = self._kept[place - self._forgotten]
        self._positions[reader] = place + 1
        self._forget()
        return pcm

    def _forget(self) -> None:
        """Drop what every reader has read."""
        end = self._forgotten + len(self._kept)
        read_by_all = min(self._positions.values(), default=end) - self._forgotten
        if read_by_all:
            self.kept_bytes -= sum(len(pcm.samples) for pcm in self._kept[:read_by_all])
            del self._kept[:read_by_all]
            self._forgotten += read_by_all

    def _tell(self) -> None:
        for news in self._news.values():
            news.set()
