"""Time from a client's `synthesize` to its first audio-chunk through a real daemon, and how that time is spent; then
from a client's leaving to the moment when the worker has dropped its job, and what a killed worker costs.

    python -m tests.benchmarks.daemon [--rounds 300] [--model DIR] [--json]

One connection an utterance, as Home Assistant does; the connection is there before the clock starts. With a model, real
or random, on a GPU, and then only to the first audio; without one the embedded voice speaks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import statistics
import time
from datetime import datetime

from wyoming.event import Event
from wyoming.tts import Synthesize

from qwentts_daemon.wyoming.wire import encode_event, read_event
from tests.support.harness import DaemonProcess, started

TEXT = "The washing machine is done, and it will rain at six."
WARM_UP = 20
FRAMES = 25
LOADED_WITHIN_S = 300.0


async def first_audio_ms(port: int) -> tuple[float, float]:
    """One utterance: milliseconds to its first audio-chunk and to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began_s = time.perf_counter()
    writer.write(encode_event(Synthesize(TEXT).event()))
    await until(reader, "audio-chunk")
    first_s = time.perf_counter()
    await until(reader, "audio-stop")
    ended_s = time.perf_counter()
    writer.close()
    await writer.wait_closed()
    return (first_s - began_s) * 1000, (ended_s - began_s) * 1000


async def until(reader: asyncio.StreamReader, kind: str) -> Event:
    while event := await read_event(reader):
        if event.type == kind:
            return event
    raise SystemExit(f"the daemon closed the connection before {kind}")


async def measure(process: DaemonProcess, rounds: int) -> dict[str, list[float]]:
    """Every figure of every round: the client's own and the hops from the daemon's log."""
    port = process.port
    totals = [await first_audio_ms(port) for _ in range(WARM_UP + rounds)][WARM_UP:]
    process.wait_for(r"first audio ms \[", WARM_UP + rounds)
    figures = {"client: first audio": [first for first, _ in totals], "client: whole reply": [end for _, end in totals]}
    lines = [match[1] for line in process.lines if (match := re.search(r"first audio ms \[(.*)\]", line))]
    for line in lines[WARM_UP:]:
        for hop in line.split(", "):
            name, _, value = hop.rpartition(" ")
            figures.setdefault(f"hop: {name}", []).append(float(value))
    hops = zip(*(values for name, values in figures.items() if name.startswith("hop")), strict=True)
    known = [sum(each) for each in hops]
    figures["hop: sockets and client"] = [
        first - inside for first, inside in zip(figures["client: first audio"], known, strict=True)
    ]
    engine = figures["hop: engine"]
    figures["added by the daemon"] = [
        first - made for first, made in zip(figures["client: first audio"], engine, strict=True)
    ]
    return figures


async def cancel_ms(process: DaemonProcess, rounds: int) -> list[float]:
    """From the closing of a connection in the middle of a long text to the worker's line about it."""
    closed_s = []
    for number in range(rounds):
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(encode_event(Synthesize(f"{TEXT} " * 80).event()))
        await until(reader, "audio-chunk")
        closed_s.append(time.time())
        writer.transport.abort()
        await asyncio.to_thread(process.wait_for, r"engine\.worker\.process: job \d+ cancelled", number + 1)
    stamps = [line[:23] for line in process.lines if re.search(r"engine\.worker\.process: job \d+ cancelled", line)]
    dropped_s = [datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp() for stamp in stamps]
    return [(dropped - closed) * 1000 for dropped, closed in zip(dropped_s, closed_s, strict=True)]


async def kill_ms(process: DaemonProcess, rounds: int) -> tuple[list[float], list[float]]:
    """From the worker's SIGKILL in mid-sentence to the client's error, and to the next reply's first audio."""
    errors_ms, recoveries_ms = [], []
    for _ in range(rounds):
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(encode_event(Synthesize(f"{TEXT} " * 80).event()))
        await until(reader, "audio-chunk")
        process.workers()[0].kill()
        killed_s = time.perf_counter()
        await until(reader, "error")
        errors_ms.append((time.perf_counter() - killed_s) * 1000)
        await first_audio_ms(process.port)
        recoveries_ms.append((time.perf_counter() - killed_s) * 1000)
        writer.close()
    return errors_ms, recoveries_ms


def faults(settings: list[str]) -> dict[str, list[float]]:
    """What a client's leaving and a killed worker cost."""
    with started(*settings, debug=True) as process:
        process.wait_for("is ready: ")
        figures = {"client leaves: job dropped": asyncio.run(cancel_ms(process, 50))}
        errors_ms, recoveries_ms = asyncio.run(kill_ms(process, 3))
        figures |= {"worker killed: error received": errors_ms, "worker killed: next speech": recoveries_ms}
        process.stop()
    return figures


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--model", metavar="DIR", help="a checkpoint, for a GPU")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = ["engine.backend=espeak"]
    if options.model:
        settings = ["engine.backend=qwen3", f"engine.model={options.model}", f"sampling.max_new_tokens={FRAMES}"]
        settings += ["engine.fallback=false", "wyoming.max_requests_per_minute=1000000"]
    with started(*settings, debug=False) as process:
        process.wait_for("is ready: ", patience_s=LOADED_WITHIN_S)
        figures = asyncio.run(measure(process, options.rounds))
        process.stop()
    if not options.model:
        figures |= faults(settings)
    table = {
        name: {"p50": round(statistics.median(values), 2), "p95": round(percentile(values, 0.95), 2)}
        for name, values in figures.items()
    }
    voice = options.model or "espeak"
    if options.json:
        print(json.dumps({"rounds": options.rounds, "voice": voice, "text": TEXT, "ms": table}))
        return
    print(f"{voice}, {options.rounds} rounds, Python {platform.python_version()}, {len(TEXT)} characters; ms")
    for name, row in table.items():
        print(f"{name:28} p50 {row['p50']:7.2f}   p95 {row['p95']:7.2f}")


if __name__ == "__main__":
    main()
