"""How kernels of this package are launched: where the GPU can, each begins before the one before it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HOME_SHARED_BYTES = 99 * 1024
"""What one program may use of an RTX 30, 40 or 50."""

_compiled: ContextVar[set[object] | None] = ContextVar("compiled", default=None)


def enqueue(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch a Triton kernel; inside `nothing_runs` have it compiled only."""
    compiled = _compiled.get()
    if compiled is None:
        kernel[grid](*arguments, **constants)
        return
    # Finer than what Triton compiles for, and much quicker to compute.
    key = (kernel, *map(_kind, arguments), *constants.items())
    if key not in compiled:
        compiled.add(key)
        kernel.warmup(*arguments, grid=grid, **constants)


def _kind(argument: object) -> object:
    return (argument.dtype, argument.data_ptr() % 16) if isinstance(argument, Tensor) else argument


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Kernels that are enqueued in here are compiled for their arguments as for a launch, and not launched."""
    token = _compiled.set(set())
    try:
        yield
    finally:
        _compiled.reset(token)


@dataclass(frozen=True, slots=True)
class Launch:
    """`early`: programmatic dependent launch (Hopper and newer).

    A kernel then starts while its predecessor drains, fetches what no kernel writes (weights), and only then waits.
    Every kernel waits before its first other memory access, so that the order of all of them stays that of the
    stream.
    """

    early: bool
    shared_bytes: int = HOME_SHARED_BYTES
    """The most shared memory of one program."""

    @classmethod
    def on(cls, device: torch.device) -> Launch:
        """The fastest way that this device knows."""
        if device.type != "cuda":
            return cls(early=False)
        properties: Any = torch.cuda.get_device_properties(device)  # torch's stub lacks the last of its fields
        return cls((properties.major, properties.minor) >= (9, 0), properties.shared_memory_per_block_optin)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of every kernel call."""
        return {"EARLY": True, "launch_pdl": True} if self.early else {"EARLY": False}


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number`, as tiles must have."""
    return 1 << (number - 1).bit_length()
