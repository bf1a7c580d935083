"""Reports to systemd while the service runs: its status on each change, and WATCHDOG=1."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from ..config.live import LiveConfig
from ..workers.pool import WorkerPool
from .sd_notify import Notifier

IN_TROUBLE_LOOK_EVERY_S = 1.0


class WatchdogReporter:
    """Reports to systemd, whenever `changed` is set and something is new.

    The watchdog is fed from the event loop at half its interval, as long as no worker is in trouble. One that is in
    trouble is replaced before the interval is over: only when that fails does systemd restart the whole service.
    """

    def __init__(
        self, live: LiveConfig, pool: WorkerPool, notifier: Notifier, changed: asyncio.Event, watchdog_s: float
    ) -> None:
        self._live = live
        self._pool = pool
        self._notifier = notifier
        self._changed = changed
        self._watchdog_s = watchdog_s
        self._told = ""

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Until cancelled."""
        due_s = time.monotonic() if self._watchdog_s < math.inf else math.inf
        while True:
            trouble = self._pool.trouble(
                silence_allowed_s(self._live.current.engine.heartbeat_timeout, self._watchdog_s)
            )
            self._tell(trouble or status(self._pool, stopping()))
            if not trouble and time.monotonic() >= due_s:
                self._notifier.alive()
                due_s = time.monotonic() + self._watchdog_s / 2
            await self._news(IN_TROUBLE_LOOK_EVERY_S if trouble else due_s - time.monotonic())

    async def _news(self, within_s: float) -> None:
        """Wait for a change, at most until the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        self._changed.clear()

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._notifier.status(text)


def silence_allowed_s(heartbeat_timeout_s: float, watchdog_s: float) -> float:
    """When a silent worker stops the watchdog's food: a little before it is replaced.

    Half the interval may have passed since the last ping; with a quarter before the replacement, and the seconds that
    it takes, the next one is still in time.
    """
    return heartbeat_timeout_s - min(heartbeat_timeout_s / 2, watchdog_s / 4)


def status(pool: WorkerPool, stopping: bool) -> str:
    """What the service does, in a few words."""
    parts = [
        "stopping" if stopping else pool.primary.state,
        f"speaking {pool.running}" if pool.running else "",
        f"{pool.waiting} waiting" if pool.waiting else "",
    ]
    return ", ".join(filter(None, parts)) or "idle"
