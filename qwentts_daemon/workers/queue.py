"""Who may speak next, and where: a bounded line, by priority and then by arrival, before an engine's workers."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from ..config.live import LiveConfig
from ..errors import Code, SpeechError, WorkerLost


class Priority(IntEnum):
    """The smaller goes first."""

    ASSIST = 0
    ANNOUNCEMENT = 1


@dataclass(slots=True, eq=False)
class WorkerSlots:
    """One worker's places: how many jobs it runs, of how many. One that is not ready has a capacity of 0.

    `stuck`: nobody knows whether it ever will be again.
    """

    capacity: int = 0
    running: int = 0
    stuck: bool = False

    @property
    def is_free(self) -> bool:
        return self.running < self.capacity

    @property
    def load(self) -> float:
        """The share of its places that one more job would leave taken."""
        return (self.running + 1) / self.capacity


class JobQueue:
    """Lets as many jobs in as the lanes have places, each into the least loaded; the others wait in one line.

    Nobody waits for a certain worker, so none is idle while there is a line, and one that ends takes nobody along.
    """

    def __init__(self, live: LiveConfig, covered: bool = False, changed: Callable[[], None] = lambda: None) -> None:
        """`covered`: whoever waits when the last worker goes gets WorkerLost, since another engine can speak.

        `changed` is called when others run or wait, or may.
        """
        self._live = live
        self.covered = covered
        self._changed = changed
        self._lanes: list[WorkerSlots] = []
        self._line: list[tuple[Priority, int, asyncio.Future[WorkerSlots]]] = []
        self._arrivals = itertools.count()
        self._closed: SpeechError | None = None

    @property
    def running(self) -> int:
        return sum(lane.running for lane in self._lanes)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def add_lane(self) -> WorkerSlots:
        """The places of one more worker, none at first."""
        self._lanes.append(WorkerSlots())
        return self._lanes[-1]

    def set_capacity(self, lane: WorkerSlots, capacity: int) -> None:
        """More or fewer may run there from now on; who runs already is not touched."""
        lane.capacity, lane.stuck = capacity, False
        if self.covered and not any(each.capacity for each in self._lanes):
            self._dismiss(WorkerLost())
        self._admit()

    def set_stuck(self, lane: WorkerSlots) -> None:
        """Its worker does not react. Where none does, nobody is left to wait in vain."""
        lane.stuck = True
        if self._all_stuck:
            self._dismiss(_no_reaction())

    async def enter(self, priority: Priority) -> WorkerSlots:
        """Wait for a place; `leave` gives it back. Raises SpeechError when the line or the wait is too long."""
        if self._closed:
            raise self._closed
        if self._all_stuck:
            raise _no_reaction()
        queue = self._live.now.queue
        self._changed()
        if not self.waiting and (lane := self._least_loaded()):
            lane.running += 1
            return lane
        if self.waiting >= queue.max_size:
            raise SpeechError(Code.QUEUE_FULL, f"{self.waiting} replies are waiting already; try again later")
        turn: asyncio.Future[WorkerSlots] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (priority, next(self._arrivals), turn))
        try:
            async with asyncio.timeout(queue.max_wait):
                return await turn
        except TimeoutError:
            self._give_up(turn)
            raise SpeechError(Code.QUEUE_TIMEOUT, f"no turn within {queue.max_wait:g} s; try again later") from None
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def close(self, error: SpeechError) -> None:
        """Nobody will ever be let in again: everybody who waits, or comes, gets `error`."""
        self._closed = error
        self._dismiss(error)

    def leave(self, lane: WorkerSlots) -> None:
        """Give the place back."""
        lane.running -= 1
        self._admit()

    def _dismiss(self, error: SpeechError) -> None:
        for *_, turn in self._line:
            if not turn.done():  # else its owner was cancelled and has not been told yet
                turn.set_exception(error)
        self._line.clear()

    def _give_up(self, turn: asyncio.Future[WorkerSlots]) -> None:
        """Leave the line, or give back the place that was given in this very turn of the loop."""
        if not turn.done():
            turn.cancel()
        elif not turn.cancelled() and not turn.exception():
            self.leave(turn.result())
        self._line = [entry for entry in self._line if entry[2] is not turn]
        heapq.heapify(self._line)

    def _admit(self) -> None:
        self._changed()
        while self._line and (lane := self._least_loaded()):
            *_, turn = heapq.heappop(self._line)
            if not turn.done():
                turn.set_result(lane)
                lane.running += 1

    @property
    def _all_stuck(self) -> bool:
        return bool(self._lanes) and all(lane.stuck for lane in self._lanes)

    def _least_loaded(self) -> WorkerSlots | None:
        free = [lane for lane in self._lanes if lane.is_free]
        return min(free, key=lambda lane: lane.load, default=None)


def _no_reaction() -> SpeechError:
    return SpeechError(Code.ENGINE_UNAVAILABLE, "the engine does not react; try again later")
