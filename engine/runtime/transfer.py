"""Between host and device without waiting: small pinned buffers that are used again, and results on their way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def upload(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Host numbers on the device, as `send` brings them there."""
    return send(torch.tensor(values, dtype=dtype), device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a copy from the host is queued there and nothing is waited for.

    Its host memory is from torch's cache of pinned memory, which is not used again before the copy is done.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@dataclass(slots=True)
class HostBuffer:
    """Host memory that is used again, and an event for the copies to and from it; None without a GPU."""

    memory: Tensor
    event: torch.cuda.Event | None


class HostBuffers:
    """Reusable host memory for numbers on their way to the device and results on their way back.

    It is pinned where the device is a GPU. It grows to what is under way at once and no further. Pinning memory and
    creating an event for each frame took a quarter of the host's time.
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[tuple[torch.dtype, int], list[HostBuffer]] = defaultdict(list)

    def take(self, count: int, dtype: torch.dtype) -> HostBuffer:
        """Return a flat buffer for at least `count` numbers."""
        size = 1 << max(count - 1, 0).bit_length()
        if free := self._free[dtype, size]:
            return free.pop()
        # An event of the default kind would keep a CPU core busy while the host waits.
        event = torch.cuda.Event(blocking=True) if self._pinned else None
        return HostBuffer(torch.empty(size, dtype=dtype, pin_memory=self._pinned), event)

    def give(self, buffer: HostBuffer) -> None:
        """Take a buffer back. No copy to or from it may be under way."""
        self._free[buffer.memory.dtype, buffer.memory.numel()].append(buffer)

    def stage(self, values: Sequence[Sequence[int]]) -> tuple[Tensor, HostBuffer]:
        """Return rows of numbers as int64 [rows, columns] in host memory that the device can read, and its buffer.

        Pass the buffer to the `HostCopy` of what is computed from them.
        """
        rows = torch.tensor(values)
        buffer = self.take(rows.numel(), rows.dtype)
        return buffer.memory[: rows.numel()].view(rows.shape).copy_(rows), buffer


class HostCopy:
    """A tensor on its way to the host, ordered after all work on the current stream so far.

    `inputs` is a buffer from which earlier work on this stream was fed. It is free again when this copy is done.
    """

    def __init__(self, source: Tensor, buffers: HostBuffers, inputs: HostBuffer | None = None) -> None:
        self._buffers, self._inputs = buffers, inputs
        if not source.is_cuda:
            self._buffer, self._view = None, source
            return
        self._buffer = buffers.take(source.numel(), source.dtype)
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
        """Whether `read` would not wait."""
        return self._buffer is None or self._arrival.query()

    def read(self) -> Tensor:
        """Wait for it: the tensor on the host, the same at every call."""
        if self._buffer is not None:
            self._arrival.synchronize()
            self._view = torch.from_numpy(self._view.numpy().copy())  # torch would copy with all cores
            self._buffers.give(self._buffer)
            self._buffer = None
        if self._inputs is not None:
            self._buffers.give(self._inputs)
            self._inputs = None
        return self._view
