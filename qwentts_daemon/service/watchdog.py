"""Reports the status of the running service to systemd, and sends WATCHDOG=1."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

from ..config.live import LiveConfig
from ..workers.pool import WorkerPool
from .sd_notify import Notifier

TROUBLE_POLL_S = 1.0


class WatchdogReporter:
    """Sends the status to systemd when `changed` is set and the status differs.

    The event loop sends WATCHDOG=1 at half the watchdog interval, unless a worker is unresponsive. Such a worker is
    replaced before the interval ends; systemd restarts the whole service only if that fails.
    """

    def __init__(
        self, live: LiveConfig, pool: WorkerPool, notifier: Notifier, changed: asyncio.Event, watchdog_s: float
    ) -> None:
        self._live = live
        self._pool = pool
        self._notifier = notifier
        self._changed = changed
        self._watchdog_s = watchdog_s
        self._reported = ""

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Report until cancelled."""
        due_s = time.monotonic() if self._watchdog_s < math.inf else math.inf
        while True:
            trouble = self._pool.trouble(
                silence_allowed_s(self._live.current.engine.heartbeat_timeout, self._watchdog_s)
            )
            self._report(trouble or status(self._pool, stopping()))
            if not trouble and time.monotonic() >= due_s:
                self._notifier.alive()
                due_s = time.monotonic() + self._watchdog_s / 2
            await self._wait_for_change(TROUBLE_POLL_S if trouble else due_s - time.monotonic())

    async def _wait_for_change(self, within_s: float) -> None:
        """Wait for a change, for at most `within_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        self._changed.clear()

    def _report(self, text: str) -> None:
        if text != self._reported:
            self._reported = text
            self._notifier.status(text)


def silence_allowed_s(heartbeat_timeout_s: float, watchdog_s: float) -> float:
    """Return after how many seconds without a heartbeat WATCHDOG=1 is withheld: shortly before the worker is replaced.

    Half the interval may have passed since the last WATCHDOG=1. Withholding it for up to a quarter of the interval
    leaves time for the replacement before the watchdog expires.
    """
    return heartbeat_timeout_s - min(heartbeat_timeout_s / 2, watchdog_s / 4)


def status(pool: WorkerPool, stopping: bool) -> str:
    """Return the status line of the service."""
    parts = [
        "stopping" if stopping else pool.primary.state,
        f"speaking {pool.running}" if pool.running else "",
        f"{pool.waiting} waiting" if pool.waiting else "",
    ]
    return ", ".join(filter(None, parts)) or "idle"
