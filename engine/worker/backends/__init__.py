"""The ways to make speech, behind one protocol that the worker's single-threaded loop drives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...ipc.messages import Event, Synthesize, Voice


class BackendError(Exception):
    """A backend cannot be loaded. `permanent` means that trying again is of no use."""

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


class JobError(Exception):
    """One job cannot be spoken; `code` is a stable word such as `voice-not-found`."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Backend(Protocol):
    """What the worker needs of an engine. Only `load` and `step` may take long; every call comes from one thread."""

    description: str
    capacity: int
    """Jobs that may run at the same time."""
    takes_new_voices: bool
    """Whether voices may come while it runs."""
    step_limit_s: float
    """What a step may take beyond a moment: nothing on a GPU, seconds on a CPU."""
    long_running: bool
    """Whether it is doing what may take minutes and is no fault; read from another thread."""

    def voices(self) -> tuple[Voice, ...]:
        """The voices it can speak with; cheap, and possible before `load`."""

    def load(self) -> None:
        """Get ready to speak. Raises BackendError."""

    def add(self, request: Synthesize) -> None:
        """Begin a job. Raises JobError when it cannot be spoken."""

    def append(self, job: int, text: str) -> None:
        """More text for an open job."""

    def end(self, job: int) -> None:
        """No more text for this job."""

    def cancel(self, job: int) -> None:
        """Forget a job, known or not."""

    def hold(self, job: int, held: bool) -> None:
        """Make no audio for a job while `held`."""

    def step(self, send: Callable[[Event], None]) -> bool:
        """Advance the running jobs by one short step (a few ms), sending events as they arise.

        Returns whether another step could do anything; False lets the worker sleep until the next command.
        """
