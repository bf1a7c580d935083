"""Health duty over one worker process: when it gets jobs, when its jobs fail, and when it must be replaced."""

from __future__ import annotations

import asyncio
import logging

from ..config.live import LiveConfig
from .health import CHECK_INTERVAL_S, HeartbeatMonitor, WorkerHealth
from .job_table import JobTable
from .process import WorkerProcess
from .queue import JobQueue, WorkerSlots

log = logging.getLogger(__name__)


class HealthSupervisor:
    """Opens and closes a worker's slots in the queue by the health of its process, from its spawn to its end."""

    def __init__(
        self, name: str, live: LiveConfig, process: WorkerProcess, jobs: JobTable, queue: JobQueue, slots: WorkerSlots
    ) -> None:
        self._name = name
        self._live = live
        self._process = process
        self._jobs = jobs
        self._queue = queue
        self._slots = slots
        self._capacity = 0
        self._hung = False
        self.monitor = HeartbeatMonitor(live.current.engine.heartbeat_timeout)
        self.loaded = self.ready = False  # a loaded worker that does not react is not ready

    def open(self, capacity: int) -> None:
        """Assign up to `capacity` jobs at once to the worker: its engine is loaded."""
        self._capacity = capacity
        self.loaded = self.ready = True
        self._queue.set_capacity(self._slots, capacity)

    def close(self) -> None:
        """Assign no more jobs to the worker."""
        self.loaded = self.ready = False
        self._queue.set_capacity(self._slots, 0)

    def deadline_exceeded(self) -> None:
        """Take the worker for hung if no job got any output for as long as it may be silent."""
        engine = self._live.current.engine
        if not self.monitor.is_long_running:
            self._hung |= self._jobs.silent_s >= min(engine.job_timeout, engine.heartbeat_timeout)

    def trouble(self, silence_s: float) -> str | None:
        """Describe what is wrong: a job past its deadline, or a pause longer than `silence_s`."""
        if self._hung:
            return f"{self._name} hangs"
        return f"{self._name} is silent" if self.monitor.pause_s > silence_s else None

    async def watch(self) -> None:
        """Check the process until it must be replaced."""
        while not (self._hung or self._process.is_choked):
            self.monitor.timeout_s = self._live.current.engine.heartbeat_timeout
            health = self.monitor.check()
            if health is WorkerHealth.DEAD:
                break
            if self.loaded:
                self._apply(health)
            await asyncio.sleep(CHECK_INTERVAL_S)
        reason = "has made nothing until a job's deadline: it hangs" if self._hung else str(self.monitor)
        log.error("%s %s%s", self._name, reason, " and reads no commands" if self._process.is_choked else "")

    def _apply(self, health: WorkerHealth) -> None:
        """Assign jobs to a healthy worker; withhold new ones from others, and fail silent ones or all."""
        healthy = health is WorkerHealth.HEALTHY
        if healthy != self.ready:
            change = "reacts again" if healthy else f"{self.monitor}; it gets no replies until it reacts"
            log.warning("%s %s", self._name, change)
            self.ready = healthy
            self._queue.set_capacity(self._slots, self._capacity if healthy else 0)
        if health is WorkerHealth.HUNG:
            self._queue.set_hung(self._slots)
            self._jobs.fail("the engine worker does not react", self._queue.has_fallback)
        elif health is WorkerHealth.SLOW and self._queue.has_fallback:
            self._jobs.fail("the engine worker does not react", has_fallback=True, only_silent=True)
