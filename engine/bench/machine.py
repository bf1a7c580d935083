"""What the benchmarks run on, and how fast it can copy and multiply at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

COPY_BYTES = {"cuda": 2 << 30, "cpu": 64 << 20}
MATRIX_SIZE = {"cuda": 8192, "cpu": 512}
REPEATS = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """The device's own measured best: bytes read and written, and floating-point operations, a second."""

    bytes_per_s: float
    flops_per_s: float


def device_name(device: torch.device) -> str:
    """As the vendor calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Mean seconds of `call`, after one that is not counted."""
    call()
    synchronize(device)
    began_s = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - began_s) / repeats


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    """One large copy and one large matrix product of `dtype`; their memory is given back."""
    limits = Limits(_copied_bytes_per_s(device), _flops_per_s(device, dtype))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return limits


def _copied_bytes_per_s(device: torch.device) -> float:
    """Reading and writing counted both."""
    source = torch.zeros(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), device, REPEATS)


def _flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    side = MATRIX_SIZE[device.type]
    matrix = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / seconds(lambda: matrix @ matrix, device, REPEATS)
