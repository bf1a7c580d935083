"""Playback of one announcement: synthesized once, played on several targets, each at its own pace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Container, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from ..audio.broadcast import BroadcastBuffer
from ..audio.chime import Chime
from ..audio.effects import prepared
from ..audio.pcm import Pcm
from ..config.target_schema import Target
from ..errors import Code, QwenTtsError, SpeechError
from ..sinks import Sink, preparation
from ..synthesis.reply import Synthesizer
from ..workers.queue import Priority
from .queue import Announcement

EventType = Literal["queued", "started", "first_audio", "finished", "cancelled", "failed"]
EventCallback = Callable[[Announcement, EventType, Mapping[str, object]], None]
"""Takes one event in the life of an announcement."""

INTERNAL = "internal error; see the log of the daemon"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TargetSink:
    """A configured target and its sink."""

    target: Target
    sink: Sink


@dataclass(frozen=True, slots=True)
class TargetResult:
    """The outcome on one target."""

    event: Literal["finished", "cancelled", "failed"]
    reason: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class PlaybackContext:
    """Shared by all playbacks. `turns` limits how many are synthesized at the same time."""

    speaker: Synthesizer
    turns: asyncio.Semaphore
    chime: Chime
    tell: EventCallback
    tasks: asyncio.TaskGroup


class AnnouncementPlayback:
    """Complete once every target of the announcement has an outcome; then reports the prevailing one."""

    def __init__(self, announcement: Announcement, stage: PlaybackContext) -> None:
        self.announcement = announcement
        self._stage = stage
        self._recording = BroadcastBuffer(announcement.targets)
        self._making: asyncio.Task[None] | None = None
        self._plays: dict[str, asyncio.Task[TargetResult]] = {}
        self._outcomes: dict[str, TargetResult] = {}
        self._facts: dict[str, object] = {}
        self._why_stopped = ""

    @property
    def is_begun(self) -> bool:
        return self._making is not None

    @property
    def is_heard(self) -> bool:
        """Return whether the first audio has been synthesized."""
        return self._recording.seconds > 0

    @property
    def is_over(self) -> bool:
        return len(self._outcomes) == len(self.announcement.targets)

    @property
    def kept_bytes(self) -> int:
        """Return the bytes of audio that a target has not read yet."""
        return self._recording.kept_bytes

    def awaits(self, target: str) -> bool:
        """Return whether it is playing elsewhere and this target is late."""
        return self.is_begun and target in self.announcement.targets and target not in (*self._plays, *self._outcomes)

    async def play(self, name: str, outlet: TargetSink) -> None:
        """Play to completion on one target, whatever the outcome; the first target starts the synthesis."""
        number, tasks = self.announcement.id, self._stage.tasks
        if self._making is None:
            self._making = tasks.create_task(self._make(), name=f"make announcement {number}")
        play = self._plays[name] = tasks.create_task(self._play(name, outlet), name=f"play {number} on {name}")
        await asyncio.wait([play])
        self.close(name, TargetResult("cancelled", self._why_stopped) if play.cancelled() else play.result())

    def stop(self, targets: Container[str], why: str) -> None:
        """Stop playback on this target at once."""
        self._why_stopped = why
        for name, play in self._plays.items():
            if name in targets:
                play.cancel()

    def close(self, name: str, outcome: TargetResult) -> None:
        """End this target's part of the playback."""
        self._outcomes[name] = outcome
        self._recording.leave(name)
        if outcome.event == "failed":
            log.warning("announcement %s on %s: %s", self.announcement.id, name, outcome.reason)
        if self.is_over:
            if self._making:
                self._making.cancel()
            self._conclude()

    # --- the speech -------------------------------------------------------------------------------------------

    async def _make(self) -> None:
        """Synthesize as fast as the engine can: a slot must not be held while a loudspeaker plays."""
        error: QwenTtsError | None = None
        try:
            async with self._stage.turns:
                self._tell("started", {"targets": list(self.announcement.targets)})
                await self._record()
        except QwenTtsError as problem:
            error = problem
        except Exception:
            log.exception("announcement %s: internal error", self.announcement.id)
            error = SpeechError(Code.INTERNAL_ERROR, INTERNAL)
        self._recording.end(error)

    async def _record(self) -> None:
        announcement = self.announcement
        name = f"announcement {announcement.id}"
        reply = self._stage.speaker.reply(announcement.request, name, Priority.ANNOUNCEMENT)
        await reply.feed(announcement.text)
        reply.end_text()
        async with aclosing(reply.pcm()) as speech:
            async for pcm in speech:
                self._recording.write(pcm)

    async def _play(self, name: str, outlet: TargetSink) -> TargetResult:
        chime = self._stage.chime if self.announcement.chime else None
        sounds = preparation(outlet.target, self.announcement.volume, chime)
        facts: dict[str, object] = {}
        try:
            async with aclosing(prepared(self._noticed(name, facts), sounds)) as pcm:
                await outlet.sink.play(self.announcement.id, pcm, facts.update)
        except SpeechError as error:
            return TargetResult("failed", str(error), error.code)
        except QwenTtsError as error:
            return TargetResult("failed", f"{name}: {error}", Code.TARGET_FAILED)
        except Exception:
            log.exception("announcement %s on %s: internal error", self.announcement.id, name)
            return TargetResult("failed", INTERNAL, Code.INTERNAL_ERROR)
        finally:
            self._facts |= facts
        return TargetResult("finished")

    async def _noticed(self, name: str, facts: Mapping[str, object]) -> AsyncGenerator[Pcm, None]:
        """Report the first audio of each target separately: a busy one gets its address only when its turn arrives."""
        heard = False
        async with aclosing(self._recording.read(name)) as pcm:
            async for each in pcm:
                if not heard:
                    heard = True
                    waited_ms = round((time.monotonic() - self.announcement.arrived_s) * 1000, 1)
                    self._tell("first_audio", {"target": name, "ttfa_ms": waited_ms, **facts})
                yield each

    # --- events ---------------------------------------------------------------------------------------------

    def _conclude(self) -> None:
        """Publish one event for all targets, a success if one of them was."""
        by_event: dict[str, TargetResult] = {outcome.event: outcome for outcome in self._outcomes.values()}
        prevailed = next(by_event[event] for event in ("finished", "failed", "cancelled") if event in by_event)
        facts: dict[str, object] = {"duration_ms": round(self._recording.seconds * 1000), **self._facts}
        if prevailed.event == "failed":
            facts |= {"error": prevailed.reason, "code": prevailed.code}
        if prevailed.event == "cancelled":
            facts |= {"reason": prevailed.reason}
        if missed := {name: each.reason for name, each in self._outcomes.items() if each.event != "finished"}:
            facts["not_played"] = missed
        self._tell(prevailed.event, facts)

    def _tell(self, event: EventType, facts: Mapping[str, object]) -> None:
        self._stage.tell(self.announcement, event, facts)
