"""Sounds and codes for tests, made by plain arithmetic so that they are the same bits on every machine."""

from __future__ import annotations

import numpy as np


def noise(count: int, seed: int) -> np.ndarray:
    """Uniform noise in [-1, 1), float32."""
    words = np.random.PCG64(seed).random_raw(count) >> 40
    return words.astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def sound(seconds: float, seed: int = 0, rate: int = 24_000) -> np.ndarray:
    """A triangle tone that swells, with some noise: [seconds · rate] float32 in [-1, 1]."""
    count = int(seconds * rate)
    steps = np.arange(count, dtype=np.int64)
    period, swell = 97 + 11 * (seed % 7), 4_800
    tone = np.abs(steps % period * 2 - period).astype(np.float32) / np.float32(period / 2) - 1
    loudness = np.abs(steps % swell * 2 - swell).astype(np.float32) / np.float32(swell) * np.float32(0.5)
    return (tone * loudness + noise(count, seed) * np.float32(0.1)).astype(np.float32)


def codes(batch: int, frames: int, seed: int = 0) -> np.ndarray:
    """Random codes [batch, 16, frames] int64."""
    words = np.random.PCG64(seed).random_raw(batch * 16 * frames) & 2047
    return words.astype(np.int64).reshape(batch, 16, frames)
