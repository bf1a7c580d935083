"""A real mosquitto on a free loopback port, and a client that receives every message."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from tests.support.harness import PATIENCE_S

os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian puts it
CHANCE = random.SystemRandom()  # hypothesis seeds the usual one, alike in all processes
needs_mosquitto = pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed")


def free_port() -> int:
    """Return a port that Linux assigns to no outgoing connection, so that it stays free while the broker is stopped."""
    while True:
        port = CHANCE.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Broker:
    """A broker that a test starts and stops, always at the same port; its state is in `directory`."""

    def __init__(self, directory: Path, *lines: str, listener: str | None = None) -> None:
        self.port = free_port()
        self._config = directory / "mosquitto.conf"
        first = [f"listener {listener or f'{self.port} 127.0.0.1'}", "user root", "log_type all"]
        kept = ["persistence true", f"persistence_location {directory}/", "autosave_on_changes true"]
        kept += ["autosave_interval 1", "allow_anonymous true"]
        overruled = {line.split()[0] for line in lines}
        kept = [line for line in kept if line.split()[0] not in overruled]
        self._config.write_text("\n".join([*first, *kept, *lines]) + "\n")
        self._process: subprocess.Popen[str] | None = None
        self.log: list[str] = []

    def start(self) -> None:
        self._process = subprocess.Popen(["mosquitto", "-c", str(self._config)], stderr=subprocess.PIPE, text=True)
        running = threading.Event()
        threading.Thread(target=self._read, args=(self._process, running), daemon=True).start()
        if not running.wait(PATIENCE_S):
            raise AssertionError("\n".join(self.log))

    def _read(self, process: subprocess.Popen[str], running: threading.Event) -> None:
        assert process.stderr
        for line in process.stderr:
            self.log.append(line.rstrip())
            if line.rstrip().endswith(" running"):
                running.set()

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait(PATIENCE_S)
            self._process = None

    def pause(self) -> None:
        """Let the broker stop answering until it is stopped."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    @property
    def settings(self) -> list[str]:
        """What a daemon needs to find it."""
        return ["mqtt.host=127.0.0.1", f"mqtt.port={self.port}", "mqtt.node_id=test", "wyoming.zeroconf=false"]


@contextlib.contextmanager
def broker(directory: Path, *lines: str, **options: Any) -> Iterator[Broker]:
    mosquitto = Broker(directory, *lines, **options)
    mosquitto.start()
    try:
        yield mosquitto
    finally:
        mosquitto.stop()


class Ear:
    """Receives every topic from its start."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.messages: list[aiomqtt.Message] = []
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Condition()

    async def listen(self) -> None:
        """Receive messages until the broker stops."""
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self.client.messages:
                async with self._news:
                    self.messages.append(message)
                    if str(message.topic) == "qwentts/test/event":
                        self._events.append(json.loads(message.payload))
                    self._news.notify_all()

    async def until(self, found: Callable[[], Any]) -> Any:
        """The first true result of `found`, which is asked again after each message."""
        async with self._news, asyncio.timeout(PATIENCE_S):
            while not (result := found()):
                await self._news.wait()
            return result

    def on(self, topic: str) -> list[bytes]:
        """Payloads on a topic so far."""
        return [message.payload for message in self.messages if str(message.topic) == topic]

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The events so far, of one announcement or all."""
        return [event for event in self._events if name is None or event.get("id") == name]

    def kinds(self, name: str | None = None) -> list[str]:
        return [event["event_type"] for event in self.events(name)]

    async def event(self, kind: str, name: str | None = None, count: int = 1) -> dict[str, Any]:
        """The count-th event of a kind."""

        def found() -> dict[str, Any] | None:
            of_kind = [event for event in self.events(name) if event["event_type"] == kind]
            return of_kind[count - 1] if len(of_kind) >= count else None

        event: dict[str, Any] = await self.until(found)
        return event

    async def shown(self, topic: str, **facts: object) -> dict[str, Any]:
        """The first JSON on a topic that has these facts."""

        def found() -> dict[str, Any] | None:
            for payload in self.on(f"qwentts/test/{topic}"):
                shown: dict[str, Any] = json.loads(payload)
                if facts.items() <= shown.items():
                    return shown
            return None

        shown: dict[str, Any] = await self.until(found)
        return shown

    async def say(self, text: str | None = None, /, **wishes: object) -> None:
        """To the daemon `test`, as JSON if there are wishes."""
        payload = json.dumps({"text": text, **wishes}) if wishes else text
        await self.client.publish("qwentts/test/say/set", payload, qos=1)

    async def send(self, topic: str, payload: str | bytes = "PRESS", **options: Any) -> None:
        await self.client.publish(f"qwentts/test/{topic}", payload, qos=1, **options)


@contextlib.asynccontextmanager
async def ear(port: int, hostname: str = "127.0.0.1", **options: Any) -> AsyncIterator[Ear]:
    client = aiomqtt.Client(hostname, port, **{"protocol": aiomqtt.ProtocolVersion.V5, **options})
    try:
        async with client, asyncio.TaskGroup() as tasks:
            hearer = Ear(client)
            await client.subscribe("#", qos=1)
            listening = tasks.create_task(hearer.listen())
            yield hearer
            listening.cancel()
    finally:
        if client._disconnected.done():
            client._disconnected.exception()  # a test that stops its broker expects that
