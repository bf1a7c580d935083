"""PCM audio: chunks, silence, and an estimate of how much a client has left to play."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pcm:
    """Mono signed 16-bit little-endian samples at `rate` Hz."""

    rate: int
    samples: bytes


class Playback:
    """Estimates how much audio a client that plays at once has left."""

    def __init__(self) -> None:
        self.rate = 0
        self.began_s = 0.0
        self.comfort_s = 0.0
        self._until_s = 0.0

    def add(self, pcm: Pcm) -> None:
        """Count audio handed to the client."""
        now_s = time.monotonic()
        if not self.rate:
            self.rate, self.began_s = pcm.rate, now_s
        self._until_s = max(self._until_s, now_s) + len(pcm.samples) / 2 / pcm.rate

    def left_s(self) -> float:
        """Seconds until the client runs out of audio."""
        return max(0.0, self._until_s - time.monotonic())


def silence(rate: int, seconds: float) -> Pcm:
    """Return `seconds` of digital silence."""
    return Pcm(rate, bytes(2 * round(rate * seconds)))
