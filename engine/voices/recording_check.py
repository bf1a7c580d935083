"""Checks whether a recording is good enough to clone, before it is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .audio import Samples, to_mono

BEST_S = (3.0, 30.0)
SHORTEST_S = 1.0
_FRAME_S = 0.02


@dataclass(frozen=True, slots=True)
class RecordingFinding:
    """One finding. With an `error` the recording is unusable, with a `warning` the clone is worse."""

    level: Literal["error", "warning"]
    code: str
    message: str


def check_recording(samples: Samples, rate: int) -> list[RecordingFinding]:
    """Check float32 [samples] or [samples, channels] at `rate` Hz; an empty list means no findings."""
    mono = to_mono(samples)
    loudest = float(np.abs(mono).max(initial=0.0))
    if loudest < 1e-4:
        return [RecordingFinding("error", "silent", "the recording is silent")]
    return [*_length(len(mono) / rate), *_rate(rate), *_level(samples, loudest), *_pauses(mono, rate)]


def _length(seconds: float) -> Iterator[RecordingFinding]:
    shortest, longest = BEST_S
    if seconds < SHORTEST_S:
        yield RecordingFinding(
            "error", "too_short", f"{seconds:.1f} s is too short: at least {SHORTEST_S:g} s are needed"
        )
    elif seconds < shortest:
        yield RecordingFinding("warning", "short", f"{seconds:.1f} s is short: {shortest:g} to {longest:g} s work best")
    elif seconds > longest:
        yield RecordingFinding("warning", "long", f"{seconds:.1f} s is long: {shortest:g} to {longest:g} s work best")


def _rate(rate: int) -> Iterator[RecordingFinding]:
    if rate < 16_000:
        yield RecordingFinding("warning", "low_rate", f"{rate} Hz sounds like a telephone: record at 24000 Hz or more")


def _level(samples: Samples, loudest: float) -> Iterator[RecordingFinding]:
    """Clipping shows as consecutive samples at full scale; a single one is harmless."""
    if loudest < 0.05:
        yield RecordingFinding(
            "warning", "quiet", f"the loudest sample is only {20 * np.log10(loudest):.0f} dB: record louder"
        )
    flat = samples.reshape(len(samples), -1)  # [samples, channels]
    at_top = np.abs(flat) >= 0.999
    share = float((at_top[1:] & at_top[:-1]).mean()) if len(flat) > 1 else 0.0
    if share > 1e-4:
        yield RecordingFinding("warning", "clipped", f"{share:.2%} of the samples are clipped: record with less gain")


def _pauses(mono: Samples, rate: int) -> Iterator[RecordingFinding]:
    """Count 20 ms frames 40 dB below the loudest one as silence."""
    size = max(1, int(_FRAME_S * rate))
    count = len(mono) // size
    if not count:
        return
    power = np.square(mono[: count * size], dtype=np.float64).reshape(count, size).mean(axis=1)  # [frames]
    silence = float((power < power.max() * 1e-4).mean())
    if silence > 0.5:
        yield RecordingFinding("warning", "pauses", f"{silence:.0%} of the recording is silence: cut it to the speech")
