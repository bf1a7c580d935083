"""Samples at another rate, streamed. The only daemon file that loads numpy: import it where something needs it."""

from __future__ import annotations

import numpy as np
import soxr

QUALITY = "HQ"


class Resampler:
    """Turns mono 16-bit samples that come in pieces of any size into the same sound at another rate."""

    def __init__(self, rate: int, wanted: int) -> None:
        self._stream = soxr.ResampleStream(rate, wanted, 1, dtype="int16", quality=QUALITY)

    def feed(self, samples: bytes) -> bytes:
        """Return the samples that are determined so far; the last ones depend on the input that follows."""
        return self._turned(samples, last=False)

    def end(self) -> bytes:
        """The rest."""
        return self._turned(b"", last=True)

    def _turned(self, samples: bytes, last: bool) -> bytes:
        made: bytes = self._stream.resample_chunk(np.frombuffer(samples, "<i2"), last=last).tobytes()
        return made


def resampled(samples: bytes, rate: int, wanted: int) -> bytes:
    """All of a sound at another rate."""
    resampler = Resampler(rate, wanted)
    return resampler.feed(samples) + resampler.end()


def stereo(samples: bytes) -> bytes:
    """The same on both sides."""
    return np.frombuffer(samples, "<i2").repeat(2).tobytes()
