"""Who may speak next: a bounded waiting line, by priority and then by arrival, before each engine worker."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from enum import IntEnum

from .errors import Code, SpeechError


class Priority(IntEnum):
    """The smaller goes first."""

    ASSIST = 0
    ANNOUNCEMENT = 1


class Admission:
    """Lets `capacity` jobs in at once. A capacity of 0, as before the worker is ready, lets everybody wait."""

    def __init__(self, max_waiting: int, max_wait_s: float) -> None:
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._capacity = 0
        self._running = 0
        self._line: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._closed: SpeechError | None = None

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._line)

    def set_capacity(self, capacity: int) -> None:
        """More or fewer may run from now on; who runs already is not touched."""
        self._capacity = capacity
        self._admit()

    async def enter(self, priority: Priority) -> None:
        """Wait for a place; `leave` gives it back. Raises SpeechError when the line or the wait is too long."""
        if self._closed:
            raise self._closed
        if self._running < self._capacity and not self.waiting:
            self._running += 1
            return
        if self.waiting >= self._max_waiting:
            raise SpeechError(Code.QUEUE_FULL, f"{self._max_waiting} replies are waiting already; try again later")
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (priority, next(self._arrivals), turn))
        try:
            async with asyncio.timeout(self._max_wait_s):
                await turn
        except TimeoutError:
            self._give_up(turn)
            raise SpeechError(Code.QUEUE_TIMEOUT, f"no turn within {self._max_wait_s:g} s; try again later") from None
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def close(self, error: SpeechError) -> None:
        """Nobody will ever be let in again: everybody who waits, or comes, gets `error`."""
        self._closed = error
        self.dismiss(error)

    def dismiss(self, error: SpeechError) -> None:
        """Everybody who waits now gets `error`."""
        for *_, turn in self._line:
            if not turn.done():  # else its owner was cancelled and has not been told yet
                turn.set_exception(error)
        self._line.clear()

    def leave(self) -> None:
        """Give the place back."""
        self._running -= 1
        self._admit()

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        """Leave the line, or give back the place that was given in this very turn of the loop."""
        if not turn.done():
            turn.cancel()
        elif not turn.cancelled() and not turn.exception():
            self.leave()
        self._line = [entry for entry in self._line if entry[2] is not turn]
        heapq.heapify(self._line)

    def _admit(self) -> None:
        while self._line and self._running < self._capacity:
            *_, turn = heapq.heappop(self._line)
            if not turn.done():
                turn.set_result(None)
                self._running += 1
