"""How a worker is, judged by the signs of life it sends: its clients are helped long before it is replaced.

Hearing a new voice, or a machine that swaps, looks like a hang for a while. So a pause costs a worker its clients
within seconds, for others to speak to, and its life only after `engine.heartbeat_timeout`; one that comes back is used
again.
"""

from __future__ import annotations

import time
from enum import IntEnum

LOOK_EVERY_S = 0.5
AWAY_AFTER_S = 2.0
STUCK_AFTER_S = 4.0
LENGTHY_MAX_S = 600.0


class WorkerHealth(IntEnum):
    """Each is worse than the one before."""

    FIT = 0
    AWAY = 1
    """Whoever has heard nothing yet is better served by another engine."""
    STUCK = 2
    """Those who listen are told."""
    LOST = 3
    """It is to be replaced."""


def judge(silent_s: float, step_s: float, lengthy: bool, timeout_s: float) -> WorkerHealth:
    """`silent_s`: since anything came from the process; `step_s`: its loop's time in one call, beyond the usual.

    `lengthy`: the engine itself says that this call may take minutes.
    """
    if silent_s >= timeout_s or step_s >= (LENGTHY_MAX_S if lengthy else timeout_s):
        return WorkerHealth.LOST
    pause_s = max(silent_s, step_s)
    if pause_s >= STUCK_AFTER_S and not lengthy:
        return WorkerHealth.STUCK
    return WorkerHealth.AWAY if pause_s >= AWAY_AFTER_S else WorkerHealth.FIT


class HeartbeatMonitor:
    """What one worker process has sent, and when."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._heard_s = self._looked_s = time.monotonic()
        self._step_s = 0.0
        self.is_lengthy = False

    def hear(self) -> None:
        """Something came from the process."""
        self._heard_s = time.monotonic()

    def beat(self, step_s: float, lengthy: bool) -> None:
        """What its heartbeat says of its loop."""
        self._step_s, self.is_lengthy = step_s, lengthy

    def look(self) -> WorkerHealth:
        """How it is now; to be asked every `LOOK_EVERY_S`.

        When that was not kept, the daemon was held up itself, and what the worker sent meanwhile is still unread.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s > 2 * LOOK_EVERY_S:
            self._heard_s = now_s
        self._looked_s = now_s
        return judge(now_s - self._heard_s, self._step_s, self.is_lengthy, self.timeout_s)

    @property
    def pause_s(self) -> float:
        """For how long nothing has come from it, or its loop has been where it should not be for long."""
        silent_s = time.monotonic() - self._heard_s
        return silent_s if self.is_lengthy else max(silent_s, self._step_s)

    def __str__(self) -> str:
        silent_s = time.monotonic() - self._heard_s
        if silent_s > self._step_s:
            return f"has been silent for {silent_s:.0f} s"
        return f"has been in one step for {self._step_s:.0f} s"
