"""What MQTT costs: from an announcement's arrival to its first sound at a program's standard input, Wyoming's first
audio while a thousand announcements come in one second, and how soon the bridge is back after the broker.

    python -m tests.benchmarks.mqtt [--rounds 100] [--json]

The broker is a mosquitto of this machine. The thousand come from a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiomqtt

from tests.benchmarks.daemon import first_audio_ms, percentile
from tests.support.broker import Broker, broker, ear
from tests.support.harness import DaemonProcess, started

TEXT = "The washing machine is done, and it will rain at six."
FLOOD = 1_000
WARM_UP = 5


async def first_sound_ms(mosquitto: Broker, path: Path, rounds: int) -> dict[str, list[float]]:
    """From the moment another client of the broker has the same message, and from its sending."""
    delivered_ms, sent_ms = [], []
    async with ear(mosquitto.port) as heard:
        for number in range(WARM_UP + rounds):
            arrived: asyncio.Future[float] = asyncio.get_running_loop().create_future()
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            asyncio.get_running_loop().add_reader(reader, note, reader, arrived)
            sent_s = time.perf_counter()
            await heard.say(TEXT, id=f"a{number}")
            await heard.until(lambda n=number: b'"a%d"' % n in b"".join(heard.on("qwentts/test/say/set")[-1:]))
            delivered_s = time.perf_counter()
            heard_s = await arrived
            await heard.event("finished", f"a{number}")
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)
            delivered_ms.append((heard_s - delivered_s) * 1000)
            sent_ms.append((heard_s - sent_s) * 1000)
    return {"delivered: first sound": delivered_ms[WARM_UP:], "sent: first sound": sent_ms[WARM_UP:]}


def note(reader: int, arrived: asyncio.Future[float]) -> None:
    """The first sound is in the pipe; the rest is taken and forgotten."""
    data = os.read(reader, 1 << 20)
    if data and not arrived.done():
        arrived.set_result(time.perf_counter())
    if not data:
        asyncio.get_running_loop().remove_reader(reader)


async def under_flood(process: DaemonProcess, mosquitto: Broker, rounds: int) -> dict[str, list[float]]:
    """Wyoming's first audio alone, and while the announcements come and are refused or spoken."""
    alone = [(await first_audio_ms(process.port))[0] for _ in range(WARM_UP + rounds)][WARM_UP:]
    flooded = []
    for _ in range(3):
        flood = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.mqtt", "--flood", str(mosquitto.port)], stdout=-1
        )
        assert flood.stdout
        await asyncio.to_thread(flood.stdout.readline)  # it is connected and begins
        while flood.poll() is None:
            flooded.append((await first_audio_ms(process.port))[0])
    return {"wyoming alone: first audio": alone, "wyoming in the flood: first audio": flooded}


async def flood(port: int) -> None:
    """A thousand announcements, spread over one second."""
    async with aiomqtt.Client("127.0.0.1", port) as client:
        print("begins", flush=True)
        began_s = time.perf_counter()
        for number in range(FLOOD):
            await client.publish("qwentts/test/say/set", f"Announcement number {number} of a thousand.", qos=0)
            await asyncio.sleep(began_s + number / FLOOD - time.perf_counter())


def back_ms(process: DaemonProcess, mosquitto: Broker, rounds: int) -> list[float]:
    """From the broker's start to the bridge's connection, after it was away for a while."""
    times = []
    for number in range(rounds):
        mosquitto.stop()
        time.sleep(1.0 + number * 0.7)  # so that the pauses between tries have grown
        mosquitto.start()
        began_s = time.perf_counter()
        process.wait_for("MQTT: connected", number + 2)
        times.append((time.perf_counter() - began_s) * 1000)
    return times


def measure(rounds: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as name:
        directory, figures = Path(name), {}
        os.mkfifo(directory / "sound")
        target = f"announce.targets={{kitchen: {{type: command, command: [sh, -c, 'cat > {directory}/sound']}}}}"
        with broker(directory) as mosquitto:
            with started(*mosquitto.settings, target, debug=False, XDG_DATA_HOME=name) as process:
                process.wait_for("is ready: ")
                process.wait_for("MQTT: connected")
                figures |= asyncio.run(first_sound_ms(mosquitto, directory / "sound", rounds))
            paced = f"announce.targets={{kitchen: {{type: snapcast, fifo: {directory}/sound}}}}"
            loudspeaker = subprocess.Popen(["cat", str(directory / "sound")], stdout=subprocess.DEVNULL)
            with started(*mosquitto.settings, paced, debug=False, XDG_DATA_HOME=name) as process:
                process.wait_for("is ready: ")
                process.wait_for("MQTT: connected")
                figures |= asyncio.run(under_flood(process, mosquitto, rounds))
                figures["broker there: bridge back"] = back_ms(process, mosquitto, 6)
            loudspeaker.kill()
            loudspeaker.wait()
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--flood", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood:
        asyncio.run(flood(options.flood))
        return
    figures = measure(options.rounds)
    table = {
        name: {"n": len(values), "p50": round(statistics.median(values), 2), "p95": round(percentile(values, 0.95), 2)}
        for name, values in figures.items()
    }
    if options.json:
        print(json.dumps({"rounds": options.rounds, "text": TEXT, "ms": table}))
        return
    print(f"espeak, mosquitto of this machine, Python {platform.python_version()}, {len(TEXT)} characters; ms")
    for name, row in table.items():
        print(f"{name:34} n {row['n']:4}   p50 {row['p50']:8.2f}   p95 {row['p95']:8.2f}")


if __name__ == "__main__":
    main()
