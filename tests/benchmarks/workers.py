"""What one daemon carries in front of several GPUs: audio a second with one and with two of them.

    python -m tests.benchmarks.workers [--model DIR] [--rate 280] [--seconds 6]

With a model, real or random, on real GPUs. Without one a worker makes a frame of up to 32 replies in the time that an
H100 needs, and does nothing else. More requests come than both can speak. Beside it the CPU time that the daemon itself
takes for a reply.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import psutil

from engine.bench.arrivals import poisson
from engine.bench.load_client import listen_all, warm_up
from engine.bench.metrics import Figure
from engine.ipc.messages import Chunk, Done, Event, Started
from engine.ipc.settings import Settings
from tests.support.fakes import RATE, ToneBackend
from tests.support.harness import started

STEP_S = 0.0055
FRAMES = 50
CLIENTS = 2
LOADED_WITHIN_S = 300.0
CHUNKS = (1, 2, 4, 8)  # frames; the last applies to all later ones
PCM = bytes(2 * 1920)
LIMITS = ("max_connections=1000", "max_connections_per_address=1000", "max_requests_per_minute=1000000")


class Paced(ToneBackend):
    """Replies of four seconds, all of them a frame further each step, however little of the CPU that takes."""

    capacity = 32

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._chunks: dict[int, int] = {}
        self._unsent: dict[int, int] = {}
        self._next_s = 0.0

    def step(self, send: Callable[[Event], None]) -> bool:
        if not self._texts:
            return False
        now_s = time.monotonic()
        time.sleep(max(0.0, self._next_s - now_s))
        self._next_s = max(now_s, self._next_s) + STEP_S
        for job in list(self._texts):
            self._advance(job, send)
        return True

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        if not self._made[job]:
            self._chunks[job] = self._unsent[job] = 0
            now_s = time.monotonic()
            send(Started(job, RATE, now_s, now_s))
        self._made[job] += 1
        self._unsent[job] += 1
        ends = self._made[job] == FRAMES
        if ends or self._unsent[job] == CHUNKS[min(self._chunks[job], len(CHUNKS) - 1)]:
            send(Chunk(job, PCM * self._unsent[job]))
            self._unsent[job], self._chunks[job] = 0, self._chunks[job] + 1
        if ends:
            send(Done(job, FRAMES * 1920, 0.0))
            self.cancel(job)
        return True


def listen(uri: str, rate: float, seconds: float, seed: int) -> dict[str, Figure]:
    """One process full of clients."""
    return asyncio.run(listen_all(uri, None, poisson(rate, seconds, seed)))


def carried(workers: int, model: str | None, rate: float, seconds: float) -> dict[str, float]:
    """Return the summed figures of all clients and the CPU time per reply of the daemon's own process."""
    devices = f"engine.devices={[f'cuda:{number}' for number in range(workers)]}"
    limits = [f"wyoming.{limit}" for limit in LIMITS]
    settings = [devices, "engine.max_jobs=32", "engine.fallback=false", "wyoming.zeroconf=false", *limits]
    if model:
        settings += ["engine.backend=qwen3", f"engine.model={model}", f"sampling.max_new_tokens={FRAMES}"]
    with started(*settings, fake=None if model else "tests.benchmarks.workers:Paced", debug=False) as process:
        process.wait_for(r"is ready", workers, LOADED_WITHIN_S)
        uri = f"tcp://127.0.0.1:{process.port}"
        asyncio.run(warm_up(uri, None, "Tea."))
        daemon = psutil.Process(process.process.pid)
        before_s = sum(daemon.cpu_times()[:2])
        with ProcessPoolExecutor(CLIENTS) as clients:
            heard = list(clients.map(partial(listen, uri, rate / CLIENTS, seconds), range(CLIENTS)))
        took_s = sum(daemon.cpu_times()[:2]) - before_s
    names = ("served", "refused", "failed", "underruns", "audio_s_per_s")
    found = {name: sum(float(each.get(name) or 0) for each in heard) for name in names}
    return found | {"daemon_cpu_ms_per_reply": took_s * 1000 / max(found["served"], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", help="a checkpoint, for real GPUs")
    parser.add_argument("--rate", type=float, default=280, help="requests a second, for two; one gets half of them")
    parser.add_argument("--seconds", type=float, default=6)
    options = parser.parse_args()
    one, two = (carried(n, options.model, options.rate * n / 2, options.seconds) for n in (1, 2))
    for workers, found in ((1, one), (2, two)):
        print(f"{workers}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    print(f"two carry {two['audio_s_per_s'] / one['audio_s_per_s']:.2f} times as much as one")


if __name__ == "__main__":
    main()
