"""Unloads an engine after an idle timeout, and loads it again on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

MIN_LOADED_S = 60.0
"""An engine stays loaded for at least this time: the job that woke it may be spoken by the fallback engine."""


class IdleManager:
    """Decides when the workers of one engine hold their GPUs.

    Report what happens with `loaded` and `job`; wait for what to do with `activated` and `deactivated`.
    """

    def __init__(self, keep_alive_s: float | None = None) -> None:
        """Deactivate `keep_alive_s` after the last job; with None only on request."""
        self._keep_alive_s = keep_alive_s
        self._jobs = 0
        self._loaded = False
        self._unload_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._activated, self._deactivated = asyncio.Event(), asyncio.Event()
        self._activated.set()

    @property
    def is_active(self) -> bool:
        """Whether the engine is to be loaded."""
        return self._activated.is_set()

    async def activated(self) -> None:
        """Wait until the engine is to be loaded."""
        await self._activated.wait()

    async def deactivated(self) -> None:
        """Wait until the engine is to be unloaded."""
        await self._deactivated.wait()

    @contextmanager
    def job(self) -> Iterator[None]:
        """Keep the engine active while a job waits or runs."""
        self._jobs += 1
        self.wake()
        try:
            yield
        finally:
            self._jobs -= 1
            if self._unload_due and not self._jobs:
                self._deactivate()
            else:
                self._restart_timer(self._keep_alive_s)

    def wake(self) -> None:
        """Activate the engine, also for a job that another engine speaks meanwhile."""
        self._unload_due = False
        self._activated.set()
        self._deactivated.clear()
        self._restart_timer(self._keep_alive_s)

    def loaded(self) -> None:
        """Record that a worker has loaded the engine."""
        self._loaded = True
        self._restart_timer(None if self._keep_alive_s is None else max(self._keep_alive_s, MIN_LOADED_S))

    def unload(self) -> None:
        """Deactivate the engine now, or after the last job."""
        self._unload_due = True
        if not self._jobs:
            self._deactivate()

    def _restart_timer(self, seconds: float | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._loaded and not self._jobs:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._deactivate)

    def _deactivate(self) -> None:
        self._loaded = self._unload_due = False
        self._restart_timer(None)
        self._activated.clear()
        self._deactivated.set()
