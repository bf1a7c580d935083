"""Streaming resampler. The only module of the daemon that loads numpy: import it on use."""

from __future__ import annotations

import numpy as np
import soxr

QUALITY = "HQ"


class Resampler:
    """Converts mono 16-bit samples, in pieces of any size, to another rate."""

    def __init__(self, rate: int, wanted: int) -> None:
        self._stream = soxr.ResampleStream(rate, wanted, 1, dtype="int16", quality=QUALITY)

    def feed(self, samples: bytes) -> bytes:
        """Return the samples that are determined so far; the last ones depend on the input that follows."""
        return self._turned(samples, last=False)

    def end(self) -> bytes:
        """Return the rest."""
        return self._turned(b"", last=True)

    def _turned(self, samples: bytes, last: bool) -> bytes:
        made: bytes = self._stream.resample_chunk(np.frombuffer(samples, "<i2"), last=last).tobytes()
        return made


def resampled(samples: bytes, rate: int, wanted: int) -> bytes:
    """Return complete audio at another rate."""
    resampler = Resampler(rate, wanted)
    return resampler.feed(samples) + resampler.end()


def stereo(samples: bytes) -> bytes:
    """Return stereo samples with the same audio on both channels."""
    return np.frombuffer(samples, "<i2").repeat(2).tobytes()
