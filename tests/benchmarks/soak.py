"""A day of a home in minutes, on a real daemon, and what it leaves behind, which must be nothing.

    python -m tests.benchmarks.soak                   2,880 polls, 24 hours of Home Assistant's, and 1,000 sentences
    python -m tests.benchmarks.soak --minutes 30      as many days as fit; one line a day
    python -m tests.benchmarks.soak --backend espeak  or qwen3, with --set engine.model=DIR; the default makes tones

Sentences come whole and streamed, by one and by several clients at once; some clients leave in the middle, some send
nonsense, and now and then the worker is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import time
from dataclasses import dataclass

import psutil
from wyoming.info import Describe
from wyoming.tts import Synthesize

from tests.support.harness import DaemonProcess, connected, hear, speak, started, stream

POLLS, SENTENCES = 2880, 1000
RESTART_SOON = "engine.restart_delay_max=1"  # a day takes half a minute, too short for the full delay
BLOCKS, WARM_UP_BLOCKS = 40, 4
TEXT = "the kettle has boiled and the washing machine is done so it may rain at six or seven"
NONSENSE = [b"\n", b"GET / HTTP/1.1\r\n\r\n", b'{"type": "synthesize", "data_length": 99}\n', b"\xff" * 5000]
KILL_EVERY = 20


@dataclass(frozen=True)
class Growth:
    """What there was more at the end than at the beginning."""

    daemon_mb: float
    workers_mb: float
    leaks: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        left = ", ".join(f"{count} {kind}" for kind, count in self.leaks.items()) or "no descriptor, task or process"
        grown = f"the daemon grew by {self.daemon_mb:+.2f} MB, its workers by {self.workers_mb:+.2f} MB"
        return f"{self.seconds:.0f} s: {grown}, {left} more than before"


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(TEXT.split(), k=chance.randint(2, 8))).capitalize() + "."


async def poll(process: DaemonProcess) -> None:
    async with connected(process) as client:
        await client.write_event(Describe().event())
        assert (await hear(client, "info")).types == ["info"]


async def leave(process: DaemonProcess, text: str) -> None:
    """Go away in the middle of a reply."""
    async with connected(process) as client:
        await client.write_event(Synthesize(text * 20).event())
        await hear(client, "audio-chunk")


def disturb(process: DaemonProcess, chance: random.Random) -> None:
    with socket.create_connection(("127.0.0.1", process.port)) as client:
        client.sendall(chance.choice(NONSENSE))


async def block(process: DaemonProcess, chance: random.Random, polls: int, sentences: int) -> None:
    """One part of a day."""
    for _ in range(polls):
        await poll(process)
    left = sentences
    while left > 0:
        together = min(left, chance.choice((1, 1, 1, 4)))
        texts = [sentence(chance) for _ in range(together)]
        whole = chance.random() < 0.5
        heard = await asyncio.gather(*(speak(process, text) if whole else stream(process, text) for text in texts))
        assert all(each.seconds for each in heard), [each.types for each in heard]
        left -= together
    await leave(process, sentence(chance))
    disturb(process, chance)


def workers_rss(process: DaemonProcess) -> int:
    return sum(worker.memory_info().rss for worker in process.workers())


async def day(process: DaemonProcess, chance: random.Random, kills: bool, blocks: int = BLOCKS) -> Growth:
    """Run a day's blocks, or `blocks` of them, after some that let every buffer and cache reach its size."""
    for _ in range(WARM_UP_BLOCKS):
        await block(process, chance, POLLS // BLOCKS, SENTENCES // BLOCKS)
    before, rss, workers, began_s = process.census(), process.rss(), workers_rss(process), time.monotonic()
    for number in range(blocks):
        await block(process, chance, POLLS // BLOCKS, SENTENCES // BLOCKS)
        if kills and number % KILL_EVERY == KILL_EVERY // 2:
            await kill(process)
    leaks = process.leaks(before)
    grown = (process.rss() - rss) / 1e6, (workers_rss(process) - workers) / 1e6
    return Growth(*grown, leaks, time.monotonic() - began_s)


async def kill(process: DaemonProcess) -> None:
    """Kill the worker of the natural voice and wait for its replacement."""
    victims = [each for each in process.workers() if each.name() == "qwentts-qwen3"]
    ready = len([line for line in process.lines if "qwentts-qwen3 is ready" in line])
    for victim in victims:
        victim.kill()
        await asyncio.to_thread(process.wait_for, "qwentts-qwen3 is ready", ready + 1)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0, help="for how long; 0: one day's worth")
    parser.add_argument("--backend", default="fake", help="fake, espeak or qwen3")
    parser.add_argument("--set", action="append", default=[], help="a key for the daemon; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    backend = "qwen3" if given.backend == "fake" else given.backend
    fake = "ToneBackend" if given.backend == "fake" else "none"
    until_s = time.monotonic() + given.minutes * 60
    with started(f"engine.backend={backend}", RESTART_SOON, *given.set, debug=False, fake=fake) as process:
        process.wait_for("is ready")
        while True:
            print(await day(process, random.Random(given.seed), kills=given.backend != "espeak"), flush=True)
            if time.monotonic() > until_s:
                break
        assert process.stop() == 0
    assert not psutil.Process().children()


if __name__ == "__main__":
    asyncio.run(main())
