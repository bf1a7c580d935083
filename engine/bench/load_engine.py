"""A load on the engine alone: one thread that admits requests at their arrival times, and steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from .arrivals import Arrival
from .metrics import Figure, RequestTrace, load_figures
from .speech import BenchRequest, BenchSpeaker, listen


def serve(speaker: BenchSpeaker, arrivals: Sequence[Arrival], room: int) -> dict[str, Figure]:
    """Speak to all; who finds `room` others there is refused."""
    crowd = LoadRun(speaker, arrivals, room)
    while crowd.waiting or speaker.engine.busy:
        crowd.let_in()
        if speaker.engine.busy:
            crowd.step()
        elif crowd.waiting:
            time.sleep(crowd.idle_s)
    return crowd.figures()


class LoadRun:
    """All requests, each timed from its arrival rather than from its admission."""

    def __init__(self, speaker: BenchSpeaker, arrivals: Sequence[Arrival], room: int) -> None:
        self.waiting = deque(arrivals)
        self._speaker, self._room = speaker, room
        self._began_s = time.perf_counter()
        self._takes: dict[int, RequestTrace] = {}
        self._open: set[int] = set()
        self._refused = 0

    @property
    def idle_s(self) -> float:
        """Return the seconds until the next arrival."""
        return max(0.0, self._began_s + self.waiting[0].at_s - time.perf_counter())

    def let_in(self) -> None:
        """Admit or reject the requests that have arrived by now."""
        while self.waiting and not self.idle_s:
            arrival = self.waiting.popleft()
            if len(self._open) >= self._room:
                self._refused += 1
                continue
            job = self._speaker.begin(BenchRequest(arrival.text, arrival.frames))
            self._takes[job] = RequestTrace(self._began_s + arrival.at_s)
            self._open.add(job)

    def step(self) -> None:
        """Run one step of the engine and record its output."""
        for progress in self._speaker.engine.step():
            listen(self._takes[progress.job], progress)
            if progress.ended:
                self._open.discard(progress.job)

    def figures(self) -> dict[str, Figure]:
        served = [take for take in self._takes.values() if take.chunks]
        return load_figures(served, self._refused, len(self._takes) - len(served))
