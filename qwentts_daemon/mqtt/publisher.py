"""Publishes to the broker: the newest value of each retained topic, and a bounded queue of other messages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

MAX_WAITING = 1024
STALE_AFTER_S = 30.0
"""Longest wait of a message without a broker: automations must not act on old ones."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """A message, with correlation data if it answers another."""

    topic: str
    payload: bytes
    retain: bool = False
    correlation: bytes | None = None


class Publisher:
    """Accepts messages at any time, and sends them while connected."""

    def __init__(self) -> None:
        self._shown: dict[str, bytes] = {}
        self._unsent: dict[str, None] = {}
        self._messages: deque[tuple[float, Message]] = deque()
        self._news = asyncio.Event()
        self.lost = 0

    def show(self, topic: str, payload: bytes) -> None:
        """Set the value of a retained topic."""
        if self._shown.get(topic) != payload:
            self._shown[topic] = payload
            self._unsent[topic] = None
            self._news.set()

    def show_again(self) -> None:
        """Publish all retained values again: subscribers may have lost them."""
        self._unsent |= dict.fromkeys(self._shown)
        self._news.set()

    def tell(self, message: Message) -> None:
        """Queue a message that is not retained; if there are too many, the oldest is dropped."""
        if len(self._messages) >= MAX_WAITING:
            self._messages.popleft()
            self.lost += 1
        self._messages.append((time.monotonic(), message))
        self._news.set()

    async def send(self, publish: Callable[[Message], Awaitable[None]], check: Callable[[], None]) -> None:
        """Publish until cancelled or until `check` raises; a message whose delivery is uncertain is kept."""
        while True:
            await self.flush(publish, check)
            self._news.clear()
            if not (self._unsent or self._messages):
                await self._news.wait()

    async def flush(
        self, publish: Callable[[Message], Awaitable[None]], check: Callable[[], None] = lambda: None
    ) -> None:
        """Publish what is queued now; `check` is called after each message."""
        if self.lost:
            log.warning("MQTT: %d messages were dropped: too many at once, or no broker took them", self.lost)
            self.lost = 0
        while self._unsent or self._messages:
            while self._unsent:
                topic = next(iter(self._unsent))
                payload = self._shown[topic]
                await publish(Message(topic, payload, retain=True))
                if self._shown[topic] == payload:
                    del self._unsent[topic]
                check()
            if self._messages:
                written_s, message = first = self._messages[0]
                if time.monotonic() - written_s <= STALE_AFTER_S:
                    await publish(message)
                if self._messages and self._messages[0] is first:
                    self._messages.popleft()
                check()
