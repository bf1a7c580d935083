"""One synthesis job: the reply reads its audio, the worker client writes to it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.ipc.messages import AppendText, Command, EndText, Hold

from ..errors import Code, SpeechError

HOLD_ABOVE_BYTES = 2 << 20
RESUME_BELOW_BYTES = 1 << 19


@dataclass(slots=True)
class Timing:
    """When the first audio passed each stage, in `time.monotonic()` seconds; `busy_s` is a duration."""

    requested_s: float
    sent_s: float
    received_s: float = 0.0
    made_s: float = 0.0
    arrived_s: float = 0.0
    busy_s: float = 0.0


@dataclass(slots=True, eq=False)
class Job:
    """A text that an engine worker speaks.

    Unread audio is bounded: above HOLD_ABOVE_BYTES the worker pauses the job, so a reader that stops
    costs a few MiB and no computing time.
    """

    id: int
    timing: Timing
    _send: Callable[[Command], None]
    _timeout_s: float
    rate: int = 0
    cut: str | None = None
    samples: int = 0
    _chunks: deque[bytes] = field(default_factory=deque)
    _unread_bytes: int = 0
    _held: bool = False
    _text_ended: bool = False
    _finished: bool = False
    _error: SpeechError | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # --- for its reader -------------------------------------------------------------------------------------

    def append(self, text: str) -> None:
        """Append text: whole words, with the blank before them."""
        self._send(AppendText(self.id, text))

    def end_text(self) -> None:
        """Mark the text as complete: from now on waiting counts against the job's time-out."""
        self._text_ended = True
        self._send(EndText(self.id))

    async def read(self, patience_s: float | None = None) -> bytes | None:
        """Return the next PCM, b"" at the end, or None if nothing arrives within `patience_s`.

        Raises SpeechError if the job failed, or if its reader has waited for longer than the job's time-out in all
        since the text was complete.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self._wait()
        except TimeoutError:
            return None
        if self._chunks:
            return self._take()
        if self._error:
            raise self._error
        return b""

    async def _wait(self) -> None:
        while not (self._chunks or self._finished):
            self._changed.clear()
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(self._timeout_s if self._text_ended else None):
                    await self._changed.wait()
            except TimeoutError:
                raise SpeechError(Code.DEADLINE_EXCEEDED, "the engine took too long for this text") from None
            finally:
                if self._text_ended:
                    self._timeout_s -= time.monotonic() - began_s

    def _take(self) -> bytes:
        pcm = self._chunks.popleft()
        self._unread_bytes -= len(pcm)
        if self._held and self._unread_bytes < RESUME_BELOW_BYTES:
            self._held = False
            self._send(Hold(self.id, held=False))
        return pcm

    # --- for the worker client ------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the worker has ended this job, successfully or not."""
        return self._finished

    def started(self, rate: int, received_s: float, made_s: float) -> None:
        """Record that the first audio exists, at `rate` Hz."""
        self.rate = rate
        self.timing.received_s, self.timing.made_s = received_s, made_s
        self.timing.arrived_s = time.monotonic()

    def deliver(self, pcm: bytes) -> None:
        """Add PCM from the worker."""
        self._chunks.append(pcm)
        self._unread_bytes += len(pcm)
        self.samples += len(pcm) // 2
        if not self._held and self._unread_bytes > HOLD_ABOVE_BYTES:
            self._held = True
            self._send(Hold(self.id, held=True))
        self._changed.set()

    def finish(self, busy_s: float, cut: str | None = None) -> None:
        """End the job: all audio has been delivered."""
        self.timing.busy_s, self.cut = busy_s, cut
        self._finished = True
        self._changed.set()

    def fail(self, error: SpeechError) -> None:
        """End the job with an error, which is raised after the audio that has been delivered."""
        self._error = error
        self._finished = True
        self._changed.set()
