"""Bounded priority queue in front of the job slots of one engine's workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from ..config.live import LiveConfig
from ..errors import Code, SpeechError, WorkerLost


class Priority(IntEnum):
    """Smaller values are served first."""

    ASSIST = 0
    ANNOUNCEMENT = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """For whom a job waits: its priority, and the client that its slot is counted for."""

    priority: Priority = Priority.ASSIST
    client: str = ""


@dataclass(slots=True, eq=False)
class WorkerSlots:
    """The job slots of one worker. A worker that is not ready has a capacity of 0.

    `hung`: the worker does not react and may never recover.
    """

    capacity: int = 0
    running: int = 0
    hung: bool = False

    @property
    def is_free(self) -> bool:
        return self.running < self.capacity

    @property
    def load(self) -> float:
        """The share of the slots in use after one more job."""
        return (self.running + 1) / self.capacity


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """A job in the queue."""

    turn: Turn
    slots: asyncio.Future[WorkerSlots]


class JobQueue:
    """Assigns each job to the least loaded worker with a free slot; further jobs wait in one queue.

    Jobs do not wait for a certain worker, so workers never idle while jobs wait, and waiting jobs survive a worker.
    A free slot is assigned to the client that holds the fewest, so one with many requests delays only itself.
    """

    def __init__(
        self, live: LiveConfig, has_fallback: bool = False, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Start without workers.

        has_fallback: another engine can speak, so waiting jobs get WorkerLost when the last worker is lost.
        changed: called whenever the number of running or waiting jobs may have changed.
        """
        self._live = live
        self.has_fallback = has_fallback
        self._changed = changed
        self._workers: list[WorkerSlots] = []
        self._waiters: list[_Waiter] = []  # in the order of their arrival
        self._held: Counter[str] = Counter()  # slots by client
        self._closed: SpeechError | None = None

    @property
    def running(self) -> int:
        """The number of acquired slots."""
        return sum(slots.running for slots in self._workers)

    @property
    def waiting(self) -> int:
        """The number of jobs in the queue."""
        return len(self._waiters)

    def add_worker(self) -> WorkerSlots:
        """Add a worker, at first without slots."""
        self._workers.append(WorkerSlots())
        return self._workers[-1]

    def set_capacity(self, slots: WorkerSlots, capacity: int) -> None:
        """Set how many jobs a worker takes from now on. Running jobs are not affected."""
        slots.capacity, slots.hung = capacity, False
        if self.has_fallback and not any(each.capacity for each in self._workers):
            self._reject_waiting(WorkerLost())
        self._assign()

    def set_hung(self, slots: WorkerSlots) -> None:
        """Record that a worker does not react. When all hang, waiting jobs fail."""
        slots.hung = True
        if self._all_hung:
            self._reject_waiting(_no_reaction())

    def exceeds_share(self, client: str) -> bool:
        """Whether `client` holds more than its share of the slots while others wait for one."""
        others = {waiter.turn.client for waiter in self._waiters} - {client}
        if not others:
            return False
        capacity = sum(slots.capacity for slots in self._workers)
        return self._held[client] > max(1, capacity // len(others | self._held.keys()))

    async def acquire(self, turn: Turn) -> WorkerSlots:
        """Wait for a slot, to be returned with `release`. Raises SpeechError if the queue or the wait is too long."""
        if self._closed:
            raise self._closed
        if self._all_hung:
            raise _no_reaction()
        limits = self._live.current.queue
        self._changed()
        if not self.waiting and (slots := self._least_loaded()):
            return self._hold(slots, turn)
        if self.waiting >= limits.max_size:
            raise SpeechError(Code.QUEUE_FULL, f"{self.waiting} replies are waiting already; try again later")
        waiter = _Waiter(turn, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(limits.max_wait):
                return await waiter.slots
        except TimeoutError:
            self._abandon(waiter)
            raise SpeechError(Code.QUEUE_TIMEOUT, f"no turn within {limits.max_wait:g} s; try again later") from None
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def release(self, slots: WorkerSlots, turn: Turn) -> None:
        """Return a slot that was acquired for `turn`."""
        slots.running -= 1
        self._held[turn.client] -= 1
        if not self._held[turn.client]:
            del self._held[turn.client]
        self._assign()

    def _hold(self, slots: WorkerSlots, turn: Turn) -> WorkerSlots:
        slots.running += 1
        self._held[turn.client] += 1
        return slots

    def close(self, error: SpeechError) -> None:
        """Fail every waiting and every later `acquire` with `error`."""
        self._closed = error
        self._reject_waiting(error)

    def _reject_waiting(self, error: SpeechError) -> None:
        for waiter in self._waiters:
            if not waiter.slots.done():  # otherwise it was cancelled and has not run yet
                waiter.slots.set_exception(error)
        self._waiters.clear()

    def _abandon(self, waiter: _Waiter) -> None:
        """Leave the queue, or release the slot that was assigned in this very turn of the event loop."""
        slots = waiter.slots
        if not slots.done():
            slots.cancel()
        elif not slots.cancelled() and not slots.exception():
            self.release(slots.result(), waiter.turn)
        self._waiters = [each for each in self._waiters if each is not waiter]

    def _assign(self) -> None:
        self._changed()
        while self._waiters and (slots := self._least_loaded()):
            waiter = min(self._waiters, key=lambda each: (each.turn.priority, self._held[each.turn.client]))
            self._waiters.remove(waiter)
            if not waiter.slots.done():
                waiter.slots.set_result(self._hold(slots, waiter.turn))

    @property
    def _all_hung(self) -> bool:
        return bool(self._workers) and all(slots.hung for slots in self._workers)

    def _least_loaded(self) -> WorkerSlots | None:
        free = [slots for slots in self._workers if slots.is_free]
        return min(free, key=lambda slots: slots.load, default=None)


def _no_reaction() -> SpeechError:
    return SpeechError(Code.ENGINE_UNAVAILABLE, "the engine does not react; try again later")
