"""A real daemon process for tests, and what a Wyoming client receives from it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from engine.worker.backends import selection
from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.loader import load
from qwentts_daemon.daemon import make_pool
from qwentts_daemon.workers.pool import WorkerPool

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
"""Bounds what hangs; nothing that works waits for it, however busy the machine is."""


class DaemonProcess:
    """The daemon on a free loopback port, its log lines as they come."""

    def __init__(
        self,
        *settings: str,
        fake: str | None = None,
        uri: str = "tcp://127.0.0.1:0",
        debug: bool = True,
        through: Sequence[str] = (),
        descriptors: Sequence[int] = (),
        **environment: str,
    ):
        """`through` is a command that runs the daemon in its own place, with `descriptors` handed down."""
        start = ["-m", "tests.support.daemon_with", fake] if fake else ["-m", "qwentts_daemon"]
        backend = [] if any(word.startswith("engine.backend=") for word in settings) else [
            f"engine.backend={'qwen3' if fake else 'espeak'}"
        ]  # fmt: skip
        patient = f"queue.max_wait={PATIENCE_S:g}"  # a busy machine takes long to load a model
        given = (f"wyoming.uri={uri}", *backend, patient, *settings)
        words = [word for setting in given for word in ("--set", setting)]
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*through, sys.executable, *start, "run", *(["--debug"] if debug else []), *words],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self.lines.append("(end of log)")
            self._news.notify_all()

    def wait_for(self, pattern: str, count: int = 1, patience_s: float = PATIENCE_S) -> re.Match[str]:
        """The count-th log line that matches."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        with self._news:
            if not self._news.wait_for(
                lambda: len(found()) >= count or self.lines[-1:] == ["(end of log)"], patience_s
            ):
                raise AssertionError(f"no {pattern!r} in time:\n" + "\n".join(self.lines))
            if len(found()) < count:
                raise AssertionError(f"the daemon ended without {pattern!r}:\n" + "\n".join(self.lines))
            return found()[count - 1]

    @property
    def port(self) -> int:
        return int(self.wait_for(r"listening on tcp://127\.0\.0\.1:(\d+)")[1])

    @property
    def uri(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        """The engine worker processes, named by themselves."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if child.name().startswith("qwentts-")]

    def rss(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def census(self) -> dict[str, int]:
        """What a daemon of `tests.support.daemon_with` has: descriptors, threads, tasks and processes."""
        said = len([line for line in self.lines if line.startswith("tasks: ")])
        self.process.send_signal(signal.SIGUSR2)
        tasks = int(self.wait_for(r"^tasks: (\d+)$", said + 1)[1])
        daemon = psutil.Process(self.process.pid)
        children = len(daemon.children(recursive=True))
        return {"descriptors": daemon.num_fds(), "threads": daemon.num_threads(), "tasks": tasks, "processes": children}

    def leaks(self, before: dict[str, int]) -> dict[str, int]:
        """What is there more than `before`, once all that was going on has come to its end."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            now = self.census()
            more = {name: count - before[name] for name, count in now.items() if count > before[name]}
            if not more or time.monotonic() > until_s:
                return more
            time.sleep(0.1)  # no event marks the moment when another process has settled

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE_S)
        self._reader.join()
        return status


@contextlib.contextmanager
def daemon(*settings: str, ready: str = "", **options: Any) -> Iterator[DaemonProcess]:
    """A daemon whose engine (or the worker `ready`) can speak; stopped in order at the end, without a complaint."""
    worker = ready or ("qwentts-qwen3" if "fake" in options else "qwentts-espeak")
    with started(*settings, **options) as process:
        process.wait_for(f"{worker} is ready: ")
        yield process
        assert process.stop() == 0
        assert not [line for line in process.lines if "Traceback" in line or "never retrieved" in line], process.lines


@contextlib.contextmanager
def started(*settings: str, **options: Any) -> Iterator[DaemonProcess]:
    """A daemon whose end is the test's business; killed if it is still there."""
    process = DaemonProcess(*settings, **options)
    try:
        yield process
    finally:
        process.process.kill()
        process.wait()


async def voice_names(process: DaemonProcess) -> list[str]:
    """Return the voices that a daemon lists, in order."""
    async with connected(process) as client:
        await client.write_event(Describe().event())
        (program,) = (await hear(client, "info")).events[-1].data["tts"]
    return [voice["name"] for voice in program["voices"]]


class Systemd:
    """The other end of a notify socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        self.socket.settimeout(PATIENCE_S)
        self.environment = {"NOTIFY_SOCKET": address}

    def until(self, wanted: str) -> list[str]:
        """Messages in order, up to the first that begins with `wanted`."""
        messages = [self.socket.recv(4096).decode()]
        while not messages[-1].startswith(wanted):
            messages.append(self.socket.recv(4096).decode())
        return messages


@contextlib.asynccontextmanager
async def running_pool(fake: str, *settings: str) -> AsyncIterator[WorkerPool]:
    """The workers of a daemon without the daemon, in this process."""
    before = selection.BACKENDS["qwen3"]
    selection.BACKENDS["qwen3"] = f"tests.support.fakes:{fake}"
    try:
        words = ["engine.backend=qwen3", "engine.fallback=false", *settings]
        pool = make_pool(LiveConfig(lambda: load(None, {}, words)))
    finally:
        selection.BACKENDS["qwen3"] = before
    running = asyncio.create_task(pool.run())
    try:
        yield pool
    finally:
        running.cancel()
        await asyncio.wait([running])


def outliving(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of `processes` that still run after PATIENCE_S. A zombie has ended: not every container's init reaps."""
    until_s = time.monotonic() + PATIENCE_S
    return [each for each in processes if not _ends(each.pid, until_s - time.monotonic())]


def _ends(pid: int, patience_s: float) -> bool:
    try:
        handle = os.pidfd_open(pid)  # readable once the process has ended, reaped or not: pidfd_open(2)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], max(0.0, patience_s))[0])
    finally:
        os.close(handle)


async def gone(process: psutil.Process) -> None:
    """Wait for the end of one of `running_pool`'s workers without taking it from the pool, which waits for it too."""
    ended, loop, handle = asyncio.Event(), asyncio.get_running_loop(), os.pidfd_open(process.pid)
    loop.add_reader(handle, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), PATIENCE_S)
    finally:
        loop.remove_reader(handle)
        os.close(handle)


@dataclass
class Heard:
    """One reply as a client received it."""

    events: list[Event] = field(default_factory=list)

    @property
    def types(self) -> list[str]:
        """Event types in order, audio chunks counted as one."""
        types = [event.type for event in self.events]
        return [kind for n, kind in enumerate(types) if n == 0 or kind != "audio-chunk" or types[n - 1] != kind]

    @property
    def pcm(self) -> bytes:
        return b"".join(event.payload or b"" for event in self.events if event.type == "audio-chunk")

    @property
    def rate(self) -> int:
        return next(AudioStart.from_event(event).rate for event in self.events if AudioStart.is_type(event.type))

    @property
    def seconds(self) -> float:
        return sum(AudioChunk.from_event(event).seconds for event in self.events if AudioChunk.is_type(event.type))

    @property
    def code(self) -> str | None:
        return next((event.data["code"] for event in self.events if event.type == "error"), None)


@contextlib.asynccontextmanager
async def connected(process: DaemonProcess) -> AsyncIterator[AsyncTcpClient]:
    client = AsyncTcpClient("127.0.0.1", process.port)
    await client.connect()
    try:
        yield client
    finally:
        with contextlib.suppress(ConnectionError):
            await client.disconnect()


async def hear(client: AsyncTcpClient, last: str) -> Heard:
    """Events until `last`, an error or the end of the connection."""
    heard = Heard()
    while event := await client.read_event():
        heard.events.append(event)
        if event.type == last:
            break
    return heard


async def speak(process: DaemonProcess, text: str, voice: SynthesizeVoice | None = None) -> Heard:
    """One `synthesize` on a connection of its own."""
    async with connected(process) as client:
        await client.write_event(Synthesize(text, voice).event())
        return await hear(client, "audio-stop")


async def stream(process: DaemonProcess, *pieces: str, compat: bool = False) -> Heard:
    """One streamed reply on a connection of its own; with `compat` as Home Assistant sends it."""
    async with connected(process) as client:
        await client.write_event(SynthesizeStart().event())
        for piece in pieces:
            await client.write_event(SynthesizeChunk(piece).event())
        if compat:
            await client.write_event(Synthesize("".join(pieces)).event())
        await client.write_event(SynthesizeStop().event())
        return await hear(client, "synthesize-stopped")
