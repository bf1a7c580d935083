"""Trimming of leading silence, and fade-outs for speech that is cut off."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..model.config import SAMPLE_RATE

SILENCE = 10 ** (-50 / 20)
"""Amplitude of -50 dBFS, the silence threshold: anything quieter is inaudible."""
BEFORE_ONSET = SAMPLE_RATE // 100


def trim_silence(wave: Tensor, most: int) -> Tensor:
    """Trim leading silence from wave [n], keeping 10 ms of it; remove at most `most` samples."""
    loud = (wave.abs() > SILENCE).nonzero()
    quiet = max(int(loud[0]) - BEFORE_ONSET, 0) if len(loud) else len(wave)
    return wave[min(quiet, most) :]


def fade_out(wave: Tensor, samples: int) -> Tensor:
    """Return the wave with its last `samples` samples multiplied by a falling half cosine."""
    tail = min(samples, wave.shape[-1])
    ramp = half_cosine(tail, rising=False)
    return torch.cat((wave[..., : wave.shape[-1] - tail], wave[..., wave.shape[-1] - tail :] * ramp), dim=-1)


def half_cosine(samples: int, *, rising: bool) -> Tensor:
    """Return a raised-cosine ramp [samples] from 0 to 1, or from 1 to 0."""
    cosine = torch.cos(torch.linspace(0, math.pi, samples))
    return 0.5 * (1 - cosine if rising else 1 + cosine)
