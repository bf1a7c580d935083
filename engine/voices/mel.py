"""The speaker encoder's ears: a log-mel spectrogram in torch alone, filters included."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_SAMPLES = 1024
HOP_SAMPLES = 256
LINEAR_HZ_PER_MEL = 200 / 3
LOG_START_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27
"""Slaney's mel scale: linear below 1 kHz, then 27 steps for each factor of 6.4."""


def log_mel(wave: Tensor, sample_rate: int = 24_000, bins: int = 128) -> Tensor:
    """wave [B, N], N above 384 → natural-log mel magnitudes [B, T, bins], T = N // 256; float32 throughout."""
    side = (WINDOW_SAMPLES - HOP_SAMPLES) // 2
    padded = F.pad(wave.float().unsqueeze(1), (side, side), mode="reflect").squeeze(1)
    frames = padded.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES)  # [B, T, 1024]
    window = torch.hann_window(WINDOW_SAMPLES, device=wave.device)
    spectrum = torch.view_as_real(torch.fft.rfft(frames * window))  # [B, T, 513, 2]
    magnitude = (spectrum.square().sum(-1) + 1e-9).sqrt()
    filters = mel_filters(sample_rate, bins).to(wave.device)
    return (magnitude @ filters).clamp(min=1e-5).log()


def mel_filters(sample_rate: int, bins: int) -> Tensor:
    """Triangular filters of equal area from 0 Hz to half the sample rate: [513, bins] float32."""
    top = _mel(sample_rate / 2)
    edges = torch.tensor([_hertz(top * step / (bins + 1)) for step in range(bins + 2)], dtype=torch.float64)
    hertz = torch.linspace(0, sample_rate / 2, WINDOW_SAMPLES // 2 + 1, dtype=torch.float64).unsqueeze(1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
    return (torch.minimum(rising, falling).clamp(min=0) * (2 / (high - low))).float()


def _mel(hertz: float) -> float:
    if hertz < LOG_START_HZ:
        return hertz / LINEAR_HZ_PER_MEL
    return LOG_START_HZ / LINEAR_HZ_PER_MEL + math.log(hertz / LOG_START_HZ) / LOG_STEP


def _hertz(mel: float) -> float:
    start = LOG_START_HZ / LINEAR_HZ_PER_MEL
    if mel < start:
        return mel * LINEAR_HZ_PER_MEL
    return LOG_START_HZ * math.exp(LOG_STEP * (mel - start))
