"""Speech backends behind one protocol, which the worker's single-threaded loop drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...ipc.messages import Event, Synthesize, Voice


class BackendError(Exception):
    """A backend cannot be loaded. `permanent`: another attempt cannot succeed."""

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


class JobError(Exception):
    """A job cannot be spoken; `code` is a stable word such as `voice-not-found`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Backend(Protocol):
    """The interface between worker and engine. Only `load` and `step` may take long; one thread makes all calls."""

    description: str
    capacity: int
    """The number of jobs that may run at the same time."""
    takes_new_voices: bool
    """Whether voices may be added while it runs."""
    step_limit_s: float
    """How long a step may take beyond a few milliseconds: 0 on a GPU, seconds on a CPU."""
    long_running: bool
    """Whether the present call may take minutes without a fault; read from another thread."""

    def voices(self) -> tuple[Voice, ...]:
        """Return the voices; cheap, and possible before `load`."""

    def load(self) -> None:
        """Load everything that jobs need. Raises BackendError."""

    def add(self, request: Synthesize) -> None:
        """Begin a job. Raises JobError if it cannot be spoken."""

    def append(self, job: int, text: str) -> None:
        """Append text to an open job."""

    def end(self, job: int) -> None:
        """Mark the text of a job as complete."""

    def cancel(self, job: int) -> None:
        """Drop a job; ignore an unknown one."""

    def hold(self, job: int, held: bool) -> None:
        """Pause a job while `held`."""

    def step(self, send: Callable[[Event], None]) -> bool:
        """Advance the running jobs by one short step (a few ms), sending events as they arise.

        Return whether another step could do anything; with False the worker sleeps until the next command.
        """
