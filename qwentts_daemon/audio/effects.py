"""Effects on speech for a loudspeaker: silence and a chime before it, its volume, silence after it.

Everything is streamed in small pieces, and plain Python does it fast enough; only a chime of another rate needs numpy.
"""

from __future__ import annotations

import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from .chime import Chime
from .pcm import Pcm, silence

PIECE_SAMPLES = 4096  # scaled in half a millisecond, so that no piece holds up the event loop
PAUSE_S = 0.2  # between the chime and the first word
FULL_SCALE = 1 << 15


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of one announcement on one loudspeaker; the volume is a factor of the amplitude, from 0 to 1."""

    volume: float = 1.0
    chime: Chime | None = None
    lead_s: float = 0.0
    tail_s: float = 0.0


async def prepared(pcm: AsyncIterator[Pcm], preparation: Effects) -> AsyncGenerator[Pcm, None]:
    """Yield the speech as the target plays it, in pieces of at most `PIECE_SAMPLES`; closing it closes `pcm` as well.

    Chime and silence wait for the first chunk of the speech and take its rate, so that a failed reply has no chime.
    """
    rate = 0
    async with AsyncExitStack() as stack:
        if isinstance(pcm, AsyncGenerator):
            await stack.enter_async_context(aclosing(pcm))
        async for spoken in pcm:
            if not rate:
                rate = spoken.rate
                for piece in _pieces(_before(rate, preparation)):
                    yield Pcm(rate, scaled(piece, preparation.volume))
            for piece in _pieces(spoken.samples):
                yield Pcm(rate, scaled(piece, preparation.volume))
        if rate:
            for piece in _pieces(silence(rate, preparation.tail_s).samples):
                yield Pcm(rate, piece)


def scaled(samples: bytes, volume: float) -> bytes:
    """Return 16-bit samples at another amplitude, rounded to nearest; `volume` is between 0 and 1."""
    if volume == 1:
        return samples
    factor, half = round(volume * FULL_SCALE), FULL_SCALE // 2
    return array.array("h", [(value * factor + half) >> 15 for value in array.array("h", samples)]).tobytes()


def _before(rate: int, preparation: Effects) -> bytes:
    chime = preparation.chime.at(rate) + silence(rate, PAUSE_S).samples if preparation.chime else b""
    return silence(rate, preparation.lead_s).samples + chime


def _pieces(samples: bytes) -> Iterator[bytes]:
    size = 2 * PIECE_SAMPLES
    return (samples[begin : begin + size] for begin in range(0, len(samples), size))
