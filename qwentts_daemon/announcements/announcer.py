"""Speaks announcements: keeps the queue, and one task for each target that plays the next one."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Container, Iterable, Mapping

from ..config.schema import Announce
from ..errors import Code, SpeechError
from .playback import AnnouncementPlayback, PlaybackContext, TargetResult, TargetSink
from .queue import Announcement, AnnouncementQueue, QuietHours, Urgency

KEPT_BYTES = 64 << 20
"""Sound that fast targets have made the slow ones keep; a fast one waits when it is more."""


class Announcer:
    """`say` queues an announcement; each target plays its next one, until `close`."""

    def __init__(self, stage: PlaybackContext, outlets: Mapping[str, TargetSink], config: Announce) -> None:
        self._stage = stage
        self._outlets = outlets
        self._line = AnnouncementQueue(config.max_waiting, config.coalesce)
        self._quiet_hours = QuietHours.parse(config.quiet_hours) if config.quiet_hours else None
        self._performances: dict[str, AnnouncementPlayback] = {}
        self._news = {name: asyncio.Event() for name in outlets}
        self._ended = asyncio.Event()
        self._is_ending = False
        self._serving = [
            stage.tasks.create_task(self._serve(name, outlet), name=f"target {name}")
            for name, outlet in outlets.items()
        ]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self._outlets)

    @property
    def depth(self) -> int:
        """Return how many announcements wait on at least one target."""
        return len(self._line)

    def require_place(self, name: str | None) -> None:
        """Raise RepeatedId for a known id, and SpeechError if the queue is full."""
        if self._is_ending:
            raise SpeechError(Code.SHUTTING_DOWN, "this daemon is shutting down")
        self._line.require_place(name)

    def say(self, announcement: Announcement) -> None:
        """Queue an announcement. Raises the errors of `AnnouncementQueue.add`."""
        self._line.add(announcement)
        self._stage.tell(announcement, "queued", {"queue_depth": self.depth})
        asyncio.get_running_loop().call_at(announcement.expires_at_s, self._expire)
        self._look()

    def stop(self, name: str | None = None, targets: Container[str] | None = None, why: str = "stopped") -> None:
        """Stop what is being spoken, or the announcement with this id, also a waiting one; on all or some targets."""
        targets = self._outlets if targets is None else targets
        spoken = [each for each in self._performances.values() if each.is_begun]
        wanted = {each.announcement.id for each in spoken} if name is None else {name}
        for performance in spoken:
            if performance.announcement.id in wanted:
                performance.stop(targets, why)
        self._drop(lambda waiting: waiting.id in wanted, why, targets)

    def clear(self, why: str = "cleared") -> None:
        """Remove waiting announcements; those that have started continue on their targets."""
        self._drop(lambda _: True, why)

    async def drain(self, timeout_s: float) -> None:
        """Start nothing new, let running playback finish for up to `timeout_s`, then stop it."""
        self._is_ending = True
        self.clear("shutting-down")
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_silent()
        except TimeoutError:
            self.stop(why="shutting-down")
            await self._until_silent()

    def close(self) -> None:
        """Stop the tasks of all targets."""
        for task in self._serving:
            task.cancel()

    # --- speaking ---------------------------------------------------------------------------------------------

    async def _serve(self, name: str, outlet: TargetSink) -> None:
        while True:
            self._news[name].clear()
            announcement = self._line.take(name) if self._may_begin(name) else None
            if announcement is None:
                await self._news[name].wait()
            elif self._is_quiet(announcement):
                self._cancel(announcement, [name], "quiet-hours")
            else:
                performance = self._performance(announcement)
                await performance.play(name, outlet)
                self._settle(performance)

    def _may_begin(self, name: str) -> bool:
        performances = self._performances.values()
        kept_bytes = sum(each.kept_bytes for each in performances)
        return kept_bytes <= KEPT_BYTES or any(each.awaits(name) for each in performances)

    def _is_quiet(self, announcement: Announcement) -> bool:
        if self._quiet_hours is None or announcement.urgency is Urgency.HIGH:
            return False
        return self._quiet_hours.cover(datetime.datetime.now().time())

    def _performance(self, announcement: Announcement) -> AnnouncementPlayback:
        """Return the playback that all targets of an announcement share."""
        if announcement.id not in self._performances:
            self._performances[announcement.id] = AnnouncementPlayback(announcement, self._stage)
        return self._performances[announcement.id]

    async def _until_silent(self) -> None:
        while self._performances:
            self._ended.clear()
            await self._ended.wait()

    # --- what is not spoken -----------------------------------------------------------------------------------

    def _expire(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._drop(lambda waiting: waiting.expires_at_s <= now_s, "expired")
        for performance in self._performances.values():
            if performance.announcement.expires_at_s <= now_s and not performance.is_heard:
                performance.stop(self._outlets, "expired")

    def _drop(self, wanted: Callable[[Announcement], bool], why: str, targets: Container[str] | None = None) -> None:
        for announcement, dropped in self._line.drop(wanted, targets):
            self._cancel(announcement, dropped, why)

    def _cancel(self, announcement: Announcement, targets: Iterable[str], why: str) -> None:
        performance = self._performance(announcement)
        for name in targets:
            performance.close(name, TargetResult("cancelled", why))
        self._settle(performance)

    def _settle(self, performance: AnnouncementPlayback) -> None:
        if performance.is_over:
            self._performances.pop(performance.announcement.id, None)
            self._ended.set()
        self._look()

    def _look(self) -> None:
        """Wake the targets: a change may let one of them start."""
        for news in self._news.values():
            news.set()
