"""Asynchronous copies between host and device, through small reusable pinned buffers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def upload(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Copy host numbers to the device, as `send` does."""
    return send(torch.tensor(values, dtype=dtype), device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; a copy from the host is queued there without waiting for it.

    The host memory is taken from torch's pinned-memory cache, which does not reuse it before the copy has finished.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(slots=True)
class HostBuffer:
    """Reusable host memory and an event for copies to and from it; the event is None without a GPU."""

    memory: Tensor
    event: torch.cuda.Event | None


class HostBuffers:
    """Pool of host memory for numbers copied to the device and results copied back.

    It is pinned if the device is a GPU, and grows to the maximum in flight at once. Pinning memory and creating an
    event for each frame took a quarter of the host's time.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[tuple[torch.dtype, int], list[HostBuffer]] = defaultdict(list)

    def acquire(self, count: int, dtype: torch.dtype) -> HostBuffer:
        """Return a flat buffer for at least `count` numbers."""
        size = 1 << max(count - 1, 0).bit_length()
        if free := self._free[dtype, size]:
            return free.pop()
        # A default event would busy-wait on a CPU core.
        event = torch.cuda.Event(blocking=True) if self._pinned else None
        return HostBuffer(torch.empty(size, dtype=dtype, pin_memory=self._pinned), event)

    def release(self, buffer: HostBuffer) -> None:
        """Return a buffer to the pool. Copies to or from it must have finished."""
        self._free[buffer.memory.dtype, buffer.memory.numel()].append(buffer)

    def stage(self, values: Sequence[Sequence[int]]) -> tuple[Tensor, HostBuffer]:
        """Return rows of numbers as int64 [rows, columns] in host memory that the device can read, and its buffer.

        Pass the buffer to the `HostCopy` of the result computed from them.
        """
        rows = torch.tensor(values)
        buffer = self.acquire(rows.numel(), rows.dtype)
        return buffer.memory[: rows.numel()].view(rows.shape).copy_(rows), buffer


class HostCopy:
    """An asynchronous copy of a tensor to the host, queued behind all prior work on the current stream.

    `inputs` is a buffer that earlier work on this stream reads. It is returned to the pool when this copy has finished.
    """

    def __init__(self, source: Tensor, buffers: HostBuffers, inputs: HostBuffer | None = None) -> None:
        self._buffers, self._inputs = buffers, inputs
        if not source.is_cuda:
            self._buffer, self._view = None, source
            return
        self._buffer = buffers.acquire(source.numel(), source.dtype)
        self._view = self._buffer.memory[: source.numel()].view(source.shape)
        self._view.copy_(source, non_blocking=True)
        self._arrival.record(torch.cuda.current_stream(source.device))

    @property
    def _arrival(self) -> torch.cuda.Event:
        assert self._buffer is not None
        assert self._buffer.event is not None
        return self._buffer.event

    @property
    def ready(self) -> bool:
        """True if `read` would not block."""
        return self._buffer is None or self._arrival.query()

    def read(self) -> Tensor:
        """Wait for the copy; return the tensor on the host, the same one at every call."""
        if self._buffer is not None:
            self._arrival.synchronize()
            self._view = torch.from_numpy(self._view.numpy().copy())  # torch would use all cores for the copy
            self._buffers.release(self._buffer)
            self._buffer = None
        if self._inputs is not None:
            self._buffers.release(self._inputs)
            self._inputs = None
        return self._view
