"""A job as its listener sees it: leave the context and it is cancelled, read it and PCM comes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import Code, SpeechError

HOLD_ABOVE_BYTES = 2 << 20
RESUME_BELOW_BYTES = 1 << 19


@dataclass(frozen=True, slots=True)
class SynthesisRequest:
    """How a text is to be spoken, in the backend's own names."""

    voice: str
    language: str | None = None
    style: str | None = None
    instruct: str | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """What a job may ask of its worker."""

    append: Callable[[str], None]
    end: Callable[[], None]
    hold: Callable[[bool], None]


@dataclass(slots=True)
class Timing:
    """When the first audio passed each hop, in `time.monotonic()` seconds."""

    requested_s: float
    sent_s: float
    received_s: float = 0.0
    made_s: float = 0.0
    arrived_s: float = 0.0
    busy_s: float = 0.0


@dataclass(slots=True, eq=False)
class Job:
    """One unit of work in an engine worker. The worker client writes to it, one session reads from it.

    Unread audio is bounded: above `HOLD_ABOVE_BYTES` the worker is asked to hold, so a listener that does not
    read costs a few MiB and nobody else's time.
    """

    id: int
    timing: Timing
    _control: Control
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

    # --- the listener's side --------------------------------------------------------------------------------

    def append(self, text: str) -> None:
        """More text; whole words."""
        self._control.append(text)

    def end_text(self) -> None:
        """No more text will come: from now on waiting counts against the job's time-out."""
        self._text_ended = True
        self._control.end()

    async def read(self, patience_s: float | None = None) -> bytes | None:
        """The next PCM, b"" when all has been read, or None when nothing came within `patience_s`.

        Raises SpeechError when the job failed, or when the engine has kept its listener waiting for longer than
        the job's time-out although it had all the text.
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
            self._control.hold(False)
        return pcm

    # --- the worker client's side ---------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether the worker has ended this job, well or not."""
        return self._finished

    def started(self, rate: int, received_s: float, made_s: float) -> None:
        """The worker has begun to speak."""
        self.rate = rate
        self.timing.received_s, self.timing.made_s = received_s, made_s
        self.timing.arrived_s = time.monotonic()

    def deliver(self, pcm: bytes) -> None:
        """Audio from the worker."""
        self._chunks.append(pcm)
        self._unread_bytes += len(pcm)
        self.samples += len(pcm) // 2
        if not self._held and self._unread_bytes > HOLD_ABOVE_BYTES:
            self._held = True
            self._control.hold(True)
        self._changed.set()

    def finish(self, busy_s: float, cut: str | None = None) -> None:
        """All audio has been delivered."""
        self.timing.busy_s, self.cut = busy_s, cut
        self._finished = True
        self._changed.set()

    def fail(self, error: SpeechError) -> None:
        """Nothing more will come."""
        self._error = error
        self._finished = True
        self._changed.set()
