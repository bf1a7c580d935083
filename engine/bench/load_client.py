"""A load on a running daemon over the Wyoming protocol, a connection a request as Home Assistant does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from wyoming.audio import AudioChunk, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.tts import Synthesize, SynthesizeVoice

from .arrivals import Arrival
from .metrics import AUDIBLE, Figure, RequestTrace, load_figures

QUEUE_FULL = "queue-full"
FULL_SCALE = 32768


@dataclass(slots=True)
class LoadResult:
    """The traces of all clients."""

    served: list[RequestTrace] = field(default_factory=list)
    refused: int = 0
    failures: list[str] = field(default_factory=list)


async def listen_all(uri: str, voice: str | None, arrivals: Sequence[Arrival]) -> dict[str, Figure]:
    """Send every request at its time and receive it to its end. The first failure is logged."""
    result, began_s = LoadResult(), time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for number, arrival in enumerate(arrivals):
            request = _listen_from(uri, Synthesize(arrival.text, _voice(voice)), began_s + arrival.at_s, result)
            clients.create_task(request, name=f"client {number}")
    figures = load_figures(result.served, result.refused, len(result.failures))
    return figures | {"failure": result.failures[0] if result.failures else None}


async def warm_up(uri: str, voice: str | None, text: str) -> None:
    """Let the voice speak once. Raises RuntimeError when it cannot."""
    result = LoadResult()
    await _listen(uri, Synthesize(text, _voice(voice)), RequestTrace(time.perf_counter()), result)
    if not result.served:
        raise RuntimeError(f"{uri} does not speak: {'; '.join(result.failures) or QUEUE_FULL}")


async def _listen_from(uri: str, request: Synthesize, at_s: float, result: LoadResult) -> None:
    await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
    await _listen(uri, request, RequestTrace(at_s), result)


async def _listen(uri: str, request: Synthesize, take: RequestTrace, result: LoadResult) -> None:
    """One request on a connection of its own; its clock runs from when it was due, connecting included."""
    try:
        async with AsyncClient.from_uri(uri) as client:
            await client.write_event(request.event())
            await _receive(client, take, result)
    except OSError as error:
        result.failures.append(f"{type(error).__name__}: {error}")


async def _receive(client: AsyncClient, take: RequestTrace, result: LoadResult) -> None:
    while event := await client.read_event():
        now_s = time.perf_counter()
        if AudioChunk.is_type(event.type):
            chunk = AudioChunk.from_event(event)
            loud_s = None if take.audible_s is not None else onset_s(chunk.audio, chunk.rate)
            take.receive(now_s, chunk.seconds, loud_s)
        elif Error.is_type(event.type):
            error = Error.from_event(event)
            if error.code == QUEUE_FULL:
                result.refused += 1
            else:
                result.failures.append(f"{error.code}: {error.text}")
            return
        elif AudioStop.is_type(event.type):
            result.served.append(take)
            return
    result.failures.append("the daemon closed the connection before the end of the speech")


def onset_s(pcm: bytes, rate: int) -> float | None:
    """Return the time of the first audible sample of mono 16-bit audio in seconds from its start."""
    samples = memoryview(pcm).cast("h")
    return next((n / rate for n, sample in enumerate(samples) if abs(sample) > AUDIBLE * FULL_SCALE), None)


def _voice(name: str | None) -> SynthesizeVoice | None:
    return SynthesizeVoice(name) if name else None
