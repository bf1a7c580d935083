"""Faults of a home computer applied to a real daemon: what the client receives, how soon, and which voice speaks next.

Each fault is a function that applies it once and returns what its client received. `tests/daemon/test_faults.py`
checks the outcomes; `python -m tests.benchmarks.fault_table` prints the times.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import psutil
from wyoming.client import AsyncTcpClient
from wyoming.tts import Synthesize

from qwentts_daemon.wyoming.wire import encode_event
from tests.support.fakes import RATE
from tests.support.harness import PATIENCE_S, ROOT, DaemonProcess, Heard, connected, hear, started

NATURAL = "qwentts-qwen3"
LONG = "On and on, without an end. " * 240
STOPPED_S = 4.0
GIVE_UP_S = 60.0
RETRY_S = 0.05


@dataclass(frozen=True)
class Told:
    """What a client saw: `speech` of the natural or the `embedded` voice, an error's code, both, or `closed`."""

    what: str
    after_s: float


@dataclass(frozen=True)
class Result:
    """Beside `told`: seconds from the fault to the next audio, and to the next audio of the engine itself."""

    fault: str
    alone: bool
    told: Told
    served_s: float
    natural_s: float
    grown_mb: float
    leaks: dict[str, int]


@dataclass
class Strike:
    """The moment of the fault, on the clock of this process."""

    process: DaemonProcess
    at_s: float = field(default_factory=time.monotonic)

    def now(self) -> None:
        self.at_s = time.monotonic()

    @property
    def worker(self) -> psutil.Process:
        return next(each for each in self.process.workers() if each.name() == NATURAL)

    async def told(self, client: AsyncTcpClient) -> Told:
        """Read to the end of a reply; the time is that of the error, or else of the first audio."""
        heard, first_s = Heard(), None
        while event := await client.read_event():
            heard.events.append(event)
            if event.type == "audio-chunk" and first_s is None:
                first_s = time.monotonic() - self.at_s
            if event.type in ("audio-stop", "error"):
                break
        now_s = time.monotonic() - self.at_s
        return Told(described(heard), now_s if heard.code or first_s is None else first_s)


def described(heard: Heard) -> str:
    """One reply in words."""
    parts = []
    if rates := [event.data["rate"] for event in heard.events if event.type == "audio-chunk"]:
        parts.append("speech" if rates[0] == RATE else "embedded")
    if heard.code:
        parts.append(heard.code)
    return ", then ".join(parts) or "closed"


@asynccontextmanager
async def asking(process: DaemonProcess, text: str) -> AsyncIterator[AsyncTcpClient]:
    async with connected(process) as client:
        await client.write_event(Synthesize(text).event())
        yield client


# --- faults of the worker ---------------------------------------------------------------------------------------


async def killed_before_audio(strike: Strike) -> Told:
    async with asking(strike.process, "[die] at once") as client:
        strike.now()
        return await strike.told(client)


async def killed_while_speaking(strike: Strike) -> Told:
    async with asking(strike.process, "Some words, and then [die]") as client:
        await hear(client, "audio-chunk")
        strike.now()
        return await strike.told(client)


async def stopped_before_audio(strike: Strike) -> Told:
    strike.worker.suspend()
    async with asking(strike.process, "Does it answer?") as client:
        strike.now()
        return await strike.told(client)


async def stopped_while_speaking(strike: Strike) -> Told:
    async with asking(strike.process, LONG) as client:
        await hear(client, "audio-chunk")
        strike.worker.suspend()
        strike.now()
        return await strike.told(client)


async def hung_in_a_step(strike: Strike) -> Told:
    async with asking(strike.process, "[hang] for ever") as client:
        strike.now()
        return await strike.told(client)


async def out_of_memory(strike: Strike) -> Told:
    worker = strike.worker
    room = worker.memory_info().vms + (64 << 20)
    worker.rlimit(psutil.RLIMIT_AS, (room, room))
    async with asking(strike.process, "[eat] all there is") as client:
        strike.now()
        return await strike.told(client)


async def slower_than_speech(strike: Strike) -> Told:
    async with asking(strike.process, "[slow]ly now") as client:
        strike.now()
        return await strike.told(client)


async def commands_unread(strike: Strike) -> Told:
    """The worker is stopped while clients come and go with long texts, more than its pipe and our bound take."""
    request = encode_event(Synthesize("A long text for a worker that does not read. " * 119).event())
    port = strike.process.port

    def flood() -> None:
        for _ in range(1000):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(request)

    strike.worker.suspend()
    strike.now()
    async with asking(strike.process, "Does anybody answer?") as client:
        flooding = asyncio.create_task(asyncio.to_thread(flood))
        told = await strike.told(client)
    await flooding
    return told


# --- faults around the daemon -----------------------------------------------------------------------------------


async def daemon_stopped(strike: Strike) -> Told:
    """The daemon is stopped for longer than a worker may be silent; the worker fills its pipe and waits."""
    async with asking(strike.process, LONG) as client:
        await hear(client, "audio-chunk")
        daemon = psutil.Process(strike.process.process.pid)
        daemon.suspend()
        await asyncio.sleep(STOPPED_S)
        daemon.resume()
        strike.now()
        return await strike.told(client)


async def second_daemon(strike: Strike) -> Told:
    """Another daemon wants the same port."""
    strike.now()
    finished = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "qwentts_daemon", "--uri", strike.process.uri, "--backend", "espeak"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    status = f"exit status {finished.returncode}"
    return Told(status if "is in use already" in finished.stderr else finished.stderr, time.monotonic() - strike.at_s)


async def thousand_connections(strike: Strike) -> Told:
    """They come and go, half of them in the middle of an event."""
    strike.now()
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", strike.process.port)) as client:
            client.sendall(b'{"type": "describe"}\n' if number % 2 else b'{"type": "synthe')
    async with asking(strike.process, "Still here.") as client:
        strike.now()
        return await strike.told(client)


async def client_reads_nothing(strike: Strike) -> Told:
    """Request an hour of speech and read nothing, as a client whose power fails."""
    with socket.create_connection(("127.0.0.1", strike.process.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(encode_event(Synthesize(LONG).event()))
        strike.now()
        await asyncio.to_thread(strike.process.wait_for, "connection lost: nothing read for")
        return Told("cut off", time.monotonic() - strike.at_s)


async def client_says_half(strike: Strike) -> Told:
    """Half an event, then nothing."""
    async with connected(strike.process) as client:
        assert client._writer
        client._writer.write(b'{"type": "synthesize", "data_len')
        strike.now()
        return await strike.told(client)


async def disk_full(strike: Strike) -> Told:
    """No process may write a byte into any file."""
    family = [psutil.Process(strike.process.process.pid), *strike.process.workers()]
    for each in family:
        each.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    strike.worker.kill()  # the next one starts without a disk
    strike.now()
    async with asking(strike.process, "Who needs a disk?") as client:
        return await strike.told(client)


Fault = Callable[[Strike], Awaitable[Told]]
QUICK = ("wyoming.idle_timeout=1", "text.max_length=100000")
WORKER_FAULTS: dict[str, Fault] = {
    "worker killed before its first audio": killed_before_audio,
    "worker killed while it speaks": killed_while_speaking,
    "worker stopped (SIGSTOP) before its first audio": stopped_before_audio,
    "worker stopped while it speaks": stopped_while_speaking,
    "a step of the engine never ends": hung_in_a_step,
    "worker out of memory": out_of_memory,
    "disk full when a worker starts": disk_full,
    "worker reads no commands, 1,000 clients come and go": commands_unread,
}
OTHER_FAULTS: dict[str, Fault] = {
    "engine four times slower than speech": slower_than_speech,
    "daemon stopped for 4 s while it speaks": daemon_stopped,
    "second daemon on the same port": second_daemon,
    "1,000 connections, half of them broken off in an event": thousand_connections,
    "client that reads nothing (`write_timeout` 1 s)": client_reads_nothing,
    "client that stops in an event (`idle_timeout` 1 s)": client_says_half,
}
FAULTS = WORKER_FAULTS | OTHER_FAULTS
MORE_SETTINGS = {"client that reads nothing (`write_timeout` 1 s)": ("wyoming.write_timeout=1",)}


@contextmanager
def alive(process: DaemonProcess) -> Iterator[None]:
    """Its workers go on at the end, also when a fault has left one stopped."""
    try:
        yield
    finally:
        for worker in process.workers():
            worker.resume()


async def first_audio(process: DaemonProcess, natural: bool) -> None:
    """Ask until there is audio; a refusal is asked again."""
    until_s = time.monotonic() + GIVE_UP_S
    while time.monotonic() < until_s:
        async with asking(process, "And now?") as client:
            heard = await hear(client, "audio-stop")
        if heard.pcm and (heard.rate == RATE or not natural):
            return
        await asyncio.sleep(RETRY_S)
    raise AssertionError("no reply has audio any more:\n" + "\n".join(process.lines[-50:]))


async def suffer(name: str, alone: bool = False, heartbeat_timeout_s: float = 3) -> Result:
    """One fault on a daemon of its own, with the embedded voice or `alone`."""
    settings = [
        *QUICK,
        *MORE_SETTINGS.get(name, ()),
        f"engine.heartbeat_timeout={heartbeat_timeout_s}",
        f"engine.fallback={'false' if alone else 'true'}",
    ]
    with started(*settings, fake="Fragile") as process:
        process.wait_for(f"{NATURAL} is ready")
        if not alone:
            process.wait_for("qwentts-espeak is ready")
        await first_audio(process, natural=True)
        await first_audio(process, natural=True)
        before, rss = process.census(), process.rss()
        strike = Strike(process)
        with alive(process):
            told = await FAULTS[name](strike)
            await first_audio(process, natural=False)
            served_s = time.monotonic() - strike.at_s
            await first_audio(process, natural=True)
            natural_s = time.monotonic() - strike.at_s
        leaks = process.leaks(before)
        grown_mb = (process.rss() - rss) / 1e6
        assert process.stop() == 0
        assert not [line for line in process.lines if "never retrieved" in line], process.lines
    return Result(name, alone, told, served_s, natural_s, grown_mb, leaks)
