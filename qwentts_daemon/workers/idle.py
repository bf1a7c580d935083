"""When an engine holds its GPU: it gives it back when nobody has spoken for a while, and comes back when asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

STAY_S = 60.0
"""At least so long after loading, for what has made it load may be spoken by another engine meanwhile."""


class IdleManager:
    """Of one engine's workers: `loaded` and `job` tell it what happens, `wanted` and `unwanted` what to do."""

    def __init__(self, keep_alive_s: float | None = None) -> None:
        """`keep_alive_s` after the last job the engine goes; None: never by itself."""
        self._keep_alive_s = keep_alive_s
        self._jobs = 0
        self._loaded = False
        self._goes_soon = False
        self._clock: asyncio.TimerHandle | None = None
        self._wanted, self._unwanted = asyncio.Event(), asyncio.Event()
        self._wanted.set()

    @property
    def is_wanted(self) -> bool:
        return self._wanted.is_set()

    async def wanted(self) -> None:
        """Wait until the engine shall be there."""
        await self._wanted.wait()

    async def unwanted(self) -> None:
        """Wait until it shall go."""
        await self._unwanted.wait()

    @contextmanager
    def job(self) -> Iterator[None]:
        """Somebody speaks, or waits to."""
        self._jobs += 1
        self.wake()
        try:
            yield
        finally:
            self._jobs -= 1
            if self._goes_soon and not self._jobs:
                self._go()
            else:
                self._start_clock(self._keep_alive_s)

    def wake(self) -> None:
        """Be there, also for somebody whom another engine serves meanwhile."""
        self._goes_soon = False
        self._wanted.set()
        self._unwanted.clear()
        self._start_clock(self._keep_alive_s)

    def loaded(self) -> None:
        """A worker can speak now."""
        self._loaded = True
        self._start_clock(None if self._keep_alive_s is None else max(self._keep_alive_s, STAY_S))

    def unload(self) -> None:
        """Go now, or at the end of the last job."""
        self._goes_soon = True
        if not self._jobs:
            self._go()

    def _start_clock(self, seconds: float | None) -> None:
        if self._clock:
            self._clock.cancel()
            self._clock = None
        if seconds is not None and self._loaded and not self._jobs:
            self._clock = asyncio.get_running_loop().call_later(seconds, self._go)

    def _go(self) -> None:
        self._loaded = self._goes_soon = False
        self._start_clock(None)
        self._wanted.clear()
        self._unwanted.set()
