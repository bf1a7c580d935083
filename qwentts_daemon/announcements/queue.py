"""Waiting announcements: bounded, urgent ones first, ordered for each target, each spoken once.

This module uses neither clocks nor tasks nor MQTT: callers pass in what it needs.
"""

from __future__ import annotations

import datetime
import itertools
from collections import OrderedDict
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from enum import IntEnum

from ..errors import Code, SpeechError
from ..voices.request import SynthesisRequest

REMEMBERED_IDS = 1_000


class Urgency(IntEnum):
    """The smallest value is served first; HIGH is also spoken in quiet hours."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the sender of an announcement wants its events as well."""

    topic: str
    correlation: bytes | None


@dataclass(frozen=True, slots=True)
class Announcement:
    """A text to be spoken on some targets; times are `time.monotonic()` seconds, `volume` is a factor."""

    id: str
    text: str
    request: SynthesisRequest
    targets: tuple[str, ...]
    urgency: Urgency
    volume: float
    chime: bool
    arrived_s: float
    expires_at_s: float
    reply_to: ReplyTo | None = None

    def says_the_same(self, other: Announcement) -> bool:
        """Return whether both sound the same to a listener."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("text", "request", "targets", "urgency", "volume", "chime")
        )


class RepeatedId(Exception):
    """The id is already known: a broker may deliver twice."""


class Coalesced(Exception):
    """An equal announcement is already waiting."""

    def __init__(self, into: str) -> None:
        super().__init__(f"the same waits already as {into}")
        self.into = into


@dataclass(slots=True, eq=False)
class _Place:
    announcement: Announcement
    arrival: int
    awaiting: list[str] = field(default_factory=list)

    @property
    def untouched(self) -> bool:
        return len(self.awaiting) == len(self.announcement.targets)


class AnnouncementQueue:
    """Waiting announcements by target. One stays until its last target has taken it."""

    def __init__(self, max_waiting: int, coalesce: bool) -> None:
        self._max_waiting = max_waiting
        self._coalesce = coalesce
        self._places: list[_Place] = []
        self._arrivals = itertools.count()
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, announcement: Announcement) -> None:
        """Add an announcement. Raises RepeatedId, Coalesced, and SpeechError if the queue is full."""
        self.require_place(announcement.id)
        if self._coalesce:
            for place in self._places:
                if place.untouched and place.announcement.says_the_same(announcement):
                    raise Coalesced(place.announcement.id)
        self._remember(announcement.id)
        self._places.append(_Place(announcement, next(self._arrivals), list(announcement.targets)))
        self._places.sort(key=lambda place: (place.announcement.urgency, place.arrival))

    def require_place(self, name: str | None) -> None:
        """Raise RepeatedId for a known id, and SpeechError if the queue is full."""
        if name in self._ids:
            raise RepeatedId(name)
        if len(self._places) >= self._max_waiting:
            raise SpeechError(
                Code.QUEUE_FULL, f"{self._max_waiting} announcements are waiting already (announce.max_waiting)"
            )

    def take(self, target: str) -> Announcement | None:
        """Return what this target speaks next."""
        for place in self._places:
            if target in place.awaiting:
                self._leave(place, [target])
                return place.announcement
        return None

    def drop(
        self, wanted: Callable[[Announcement], bool], targets: Container[str] | None = None
    ) -> list[tuple[Announcement, list[str]]]:
        """Remove what is `wanted` from some targets or all, and return which targets."""
        dropped = []
        for place in [place for place in self._places if wanted(place.announcement)]:
            if leaving := [name for name in place.awaiting if targets is None or name in targets]:
                self._leave(place, leaving)
                dropped.append((place.announcement, leaving))
        return dropped

    def _leave(self, place: _Place, targets: Container[str]) -> None:
        place.awaiting = [target for target in place.awaiting if target not in targets]
        if not place.awaiting:
            self._places.remove(place)

    def _remember(self, name: str) -> None:
        self._ids[name] = None
        if len(self._ids) > REMEMBERED_IDS:
            self._ids.popitem(last=False)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A period of every day, possibly across midnight."""

    begin: datetime.time
    end: datetime.time

    @classmethod
    def parse(cls, words: str) -> QuietHours:
        """Parse a period such as `22:00-07:00`."""
        return cls(*(datetime.time.fromisoformat(word) for word in words.split("-")))

    def cover(self, now: datetime.time) -> bool:
        """Return whether this local time is in the period."""
        if self.begin < self.end:
            return self.begin <= now < self.end
        return now >= self.begin or now < self.end
