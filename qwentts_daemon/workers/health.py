"""Heartbeat monitor: fails over before restarting.

Encoding a new voice, or a machine that swaps, looks like a hang for a while. Therefore a pause of seconds only takes
jobs away from a worker, and `engine.heartbeat_timeout` replaces it. A worker that recovers in between is used again.
"""

from __future__ import annotations

import time
from enum import IntEnum

CHECK_INTERVAL_S = 0.5
SLOW_AFTER_S = 2.0
HUNG_AFTER_S = 4.0
LONG_RUNNING_MAX_S = 600.0


class WorkerHealth(IntEnum):
    """Each state is worse than the one before."""

    HEALTHY = 0
    SLOW = 1
    """New jobs, and jobs without audio yet, are better served by another engine."""
    HUNG = 2
    """Running jobs fail."""
    DEAD = 3
    """The process must be replaced."""


def classify(silent_s: float, step_s: float, long_running: bool, timeout_s: float) -> WorkerHealth:
    """Rate a worker by its pauses.

    silent_s: seconds since the last message from the process.
    step_s: seconds that its loop has been in one call, beyond the usual.
    long_running: the engine reports that this call may take minutes.
    timeout_s: `engine.heartbeat_timeout`.
    """
    if silent_s >= timeout_s or step_s >= (LONG_RUNNING_MAX_S if long_running else timeout_s):
        return WorkerHealth.DEAD
    pause_s = max(silent_s, step_s)
    if pause_s >= HUNG_AFTER_S and not long_running:
        return WorkerHealth.HUNG
    return WorkerHealth.SLOW if pause_s >= SLOW_AFTER_S else WorkerHealth.HEALTHY


class HeartbeatMonitor:
    """Records when one worker process sent messages and what its heartbeats reported."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._message_s = self._checked_s = time.monotonic()
        self._step_s = 0.0
        self.is_long_running = False

    def message(self) -> None:
        """Record that a message arrived from the process."""
        self._message_s = time.monotonic()

    def heartbeat(self, step_s: float, long_running: bool) -> None:
        """Record the content of a heartbeat: the state of the worker's loop."""
        self._step_s, self.is_long_running = step_s, long_running

    def check(self) -> WorkerHealth:
        """Return the present state. Call it every CHECK_INTERVAL_S.

        A late call means that the daemon itself was held up, so messages may be unread: silence starts anew.
        """
        now_s = time.monotonic()
        if now_s - self._checked_s > 2 * CHECK_INTERVAL_S:
            self._message_s = now_s
        self._checked_s = now_s
        return classify(now_s - self._message_s, self._step_s, self.is_long_running, self.timeout_s)

    @property
    def pause_s(self) -> float:
        """Seconds without a message, or in one call that may not take long."""
        silent_s = time.monotonic() - self._message_s
        return silent_s if self.is_long_running else max(silent_s, self._step_s)

    def __str__(self) -> str:
        silent_s = time.monotonic() - self._message_s
        if silent_s > self._step_s:
            return f"has been silent for {silent_s:.0f} s"
        return f"has been in one step for {self._step_s:.0f} s"
