"""Findings about a recording before it becomes a voice."""

import numpy as np
import pytest

from engine.voices.audio import Samples
from engine.voices.recording_check import check_recording


def speech(seconds: float, rate: int = 24000, gain: float = 0.5, pause: float = 0.2) -> Samples:
    """Noise with syllables, and `pause` of each second silent."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(1).uniform(-1, 1, time.size)
    return (gain * noise * (0.6 + 0.4 * np.sin(25 * time)) * (time % 1 > pause)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "rate", "codes"),
    [
        (speech(6), 24000, []),
        (np.stack([speech(6), speech(6)], axis=1), 24000, []),
        (speech(0.8), 24000, ["too_short"]),
        (speech(2), 24000, ["short"]),
        (speech(40), 24000, ["long"]),
        (speech(6, 8000), 8000, ["low_rate"]),
        (speech(6, gain=0.02), 24000, ["quiet"]),
        (np.clip(speech(6, gain=3), -1, 1), 24000, ["clipped"]),
        (speech(6, pause=0.7), 24000, ["pauses"]),
        (np.zeros(48000, np.float32), 24000, ["silent"]),
        (speech(2, 8000, pause=0.8, gain=0.03), 8000, ["short", "low_rate", "quiet", "pauses"]),
    ],
)
def test_check_recording_reports_findings(samples: Samples, rate: int, codes: list[str]) -> None:
    findings = check_recording(samples, rate)
    assert [finding.code for finding in findings] == codes
    assert all((finding.level == "error") == (finding.code in ("too_short", "silent")) for finding in findings)
    assert all(finding.message for finding in findings)


def test_check_recording_ignores_single_full_scale_peak() -> None:
    samples = speech(6)
    samples[1000] = 1.0
    assert check_recording(samples, 24000) == []
