"""Kernel launches: where the GPU supports it, each kernel starts before its predecessor has finished."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HOME_SHARED_BYTES = 99 * 1024
"""Maximum shared memory per program on RTX 30, 40 and 50."""

_compiled: ContextVar[set[object] | None] = ContextVar("compiled", default=None)


def enqueue(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch a Triton kernel; within `nothing_runs`, only compile it."""
    compiled = _compiled.get()
    if compiled is None:
        kernel[grid](*arguments, **constants)
        return
    # Finer than Triton's own specialisation key, and much cheaper to compute.
    key = (kernel, *map(_kind, arguments), *constants.items())
    if key not in compiled:
        compiled.add(key)
        kernel.warmup(*arguments, grid=grid, **constants)


def _kind(argument: object) -> object:
    return (argument.dtype, argument.data_ptr() % 16) if isinstance(argument, Tensor) else argument


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Compile the kernels enqueued in this context as if they were launched, but do not launch them."""
    token = _compiled.set(set())
    try:
        yield
    finally:
        _compiled.reset(token)


@dataclass(frozen=True, slots=True)
class Launch:
    """Launch options; `early` enables programmatic dependent launch (Hopper and newer).

    With it, a kernel starts while its predecessor drains, loads data that no kernel writes (weights), and only then
    waits. Every kernel waits before any other memory access, so that stream order is preserved.
    """

    early: bool
    shared_bytes: int = HOME_SHARED_BYTES
    """Maximum shared memory per program."""

    @classmethod
    def on(cls, device: torch.device) -> Launch:
        """Return the fastest options that `device` supports."""
        if device.type != "cuda":
            return cls(early=False)
        properties: Any = torch.cuda.get_device_properties(device)  # torch's stub lacks shared_memory_per_block_optin
        return cls((properties.major, properties.minor) >= (9, 0), properties.shared_memory_per_block_optin)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for every kernel launch."""
        return {"EARLY": True, "launch_pdl": True} if self.early else {"EARLY": False}


def next_power_of_2(number: int) -> int:
    """Return the smallest power of two that is at least `number`; tile sizes must be powers of two."""
    return 1 << (number - 1).bit_length()
