"""The engine worker process: one thread that drains commands, lets the backend take a step, and sends events."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from ..ipc.channel import ChannelClosed, Inbox, Outbox
from ..ipc.messages import (
    AppendText,
    Cancel,
    Command,
    Done,
    EndText,
    Event,
    Failed,
    Health,
    Hold,
    LoadFailed,
    Ready,
    SetLogLevel,
    Stop,
    Synthesize,
)
from ..ipc.settings import Settings
from .backends import Backend, BackendError, JobError

HEALTH_INTERVAL_S = 0.5
IDLE_INTERVAL_S = 1.0
OOM_SCORE_ADJ = 500
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15

log = logging.getLogger(__name__)


def make_backend(settings: Settings) -> Backend:
    """Return the backend that `settings` names, not loaded yet. Raises BackendError for an unknown name."""
    module, _, name = settings.backend.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"no backend {settings.backend}: {error}", permanent=True) from error
    backend: Backend = factory(settings)
    return backend


def run(packed: bytes, commands: Connection, events: Connection, parent: int) -> None:
    """Run the process until `Stop`, or until the daemon is gone.

    packed: the pickled Settings. The daemon may be of another version, so greet it before anything of it is unpickled.
    """
    outbox = Outbox(events)
    with contextlib.suppress(ChannelClosed):  # the loop notices that as well
        outbox.greet()
    settings: Settings = pickle.loads(packed)
    _settle(settings, parent)
    worker = Worker(Inbox(commands), outbox)
    try:
        worker.serve(settings)
    except ChannelClosed:
        log.info("the daemon is gone; %s ends", settings.name)
    except Exception:
        log.exception("%s failed and ends; its jobs are lost", settings.name)
        raise SystemExit(1) from None


class Worker:
    """Carries out the daemon's commands and drives a backend."""

    def __init__(self, inbox: Inbox, outbox: Outbox) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._open: set[int] = set()
        self._backend: Backend | None = None
        self._step_began_s: float | None = None

    def serve(self, settings: Settings) -> None:
        """Load the backend, then run jobs until `Stop`."""
        with self._heartbeat():
            backend = self._loaded(settings)
            if backend:
                self._outbox.put(Ready(backend.voices(), backend.capacity, backend.description))
                self._backend = backend
                self._loop(backend)

    def _loaded(self, settings: Settings) -> Backend | None:
        """Load and return the backend; return None after a failure has been reported to the daemon."""
        try:
            backend = make_backend(settings)
            backend.load()
        except BackendError as error:
            self._outbox.put(LoadFailed(str(error), error.permanent))
            return None
        except ChannelClosed:
            raise
        except Exception as error:  # a fault of ours or of a package: the daemon logs it and tries again
            log.exception("%s cannot be loaded", settings.name)
            self._outbox.put(LoadFailed(f"{type(error).__name__}: {error}", permanent=False))
            return None
        return backend

    def _loop(self, backend: Backend) -> None:
        busy = False
        while True:
            self._step_began_s = None
            while self._inbox.wait(0 if busy else IDLE_INTERVAL_S):
                command: Command = self._inbox.get()
                if isinstance(command, Stop):
                    return
                self._step_began_s = time.monotonic()
                self._apply(backend, command)
                busy = True
            self._step_began_s = time.monotonic()
            busy = backend.step(self._send)

    @contextlib.contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Send heartbeats from a separate thread, with the length of the call that the loop is in."""
        ended = threading.Event()

        def beat() -> None:
            with contextlib.suppress(ChannelClosed):  # the loop finds that out too
                while not ended.wait(HEALTH_INTERVAL_S):
                    self._outbox.put(self._health())

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _health(self) -> Health:
        began_s, backend = self._step_began_s, self._backend
        if not (began_s and backend):
            return Health()
        return Health(max(0.0, time.monotonic() - began_s - backend.step_limit_s), backend.long_running)

    def _apply(self, backend: Backend, command: Command) -> None:
        match command:
            case Synthesize(job=job):
                self._open.add(job)
                try:
                    backend.add(command)
                except JobError as error:
                    self._send(Failed(job, error.code, str(error)))
            case Cancel(job):
                self._open.discard(job)
                backend.cancel(job)
                log.debug("job %d cancelled", job)
            case AppendText(job, text) if job in self._open:
                backend.append(job, text)
            case EndText(job) if job in self._open:
                backend.end(job)
            case Hold(job, held) if job in self._open:
                backend.hold(job, held)
            case SetLogLevel(level):
                logging.getLogger().setLevel(level)

    def _send(self, event: Event) -> None:
        if isinstance(event, (Done, Failed)):
            self._open.discard(event.job)
        self._outbox.put(event)


def _settle(settings: Settings, parent: int) -> None:
    """Set up the process: its name, ignored signals, its death with the parent, logs on stderr."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # sent to the whole group: the daemon decides
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # under memory pressure the kernel kills the worker rather than the daemon
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ))
    os.dup2(sys.stderr.fileno() if sys.stderr else os.open(os.devnull, os.O_WRONLY), 1)  # it may be stdio://
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(settings.log_formatter)
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_NAME, settings.name.encode()[:15], 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above; on other systems the pipe closes
        raise SystemExit(1)
