"""Between host and device without waiting: small pinned buffers that are used again, and results on their way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def upload(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Host numbers on the device, as `send` brings them there."""
    return send(torch.tensor(values, dtype=dtype), device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a copy from the host is queued there and nothing is waited for.

    Its host memory comes from torch's cache of pinned memory, which is not used again before the copy is done.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class HostBuffers:
    """Host memory for results, pinned where the device is a GPU. It grows to what is in flight at once, no further."""

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[tuple[torch.dtype, int], list[Tensor]] = defaultdict(list)

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """A flat buffer for at least `count` numbers."""
        size = 1 << max(count - 1, 0).bit_length()
        free = self._free[dtype, size]
        return free.pop() if free else torch.empty(size, dtype=dtype, pin_memory=self._pinned)

    def give(self, buffer: Tensor) -> None:
        """The buffer is free again; no copy to or from it is under way."""
        self._free[buffer.dtype, buffer.numel()].append(buffer)


class HostCopy:
    """A tensor on its way to the host, behind what the current stream has been told until now."""

    def __init__(self, source: Tensor, buffers: HostBuffers) -> None:
        self._buffers = buffers
        self._event: torch.cuda.Event | None = None
        if not source.is_cuda:
            self._buffer, self._view = None, source
            return
        self._buffer = buffers.take(source.numel(), source.dtype)
        self._view = self._buffer[: source.numel()].view(source.shape)
        self._view.copy_(source, non_blocking=True)
        self._event = torch.cuda.Event(blocking=True)  # the default kind keeps a CPU core busy while the host waits
        self._event.record(torch.cuda.current_stream(source.device))

    @property
    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return self._event is None or self._event.query()

    def read(self) -> Tensor:
        """Wait for it: the tensor on the host, the same at every call."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        if self._buffer is not None:
            self._view = torch.from_numpy(self._view.numpy().copy())  # torch would copy with all cores
            self._buffers.give(self._buffer)
            self._buffer = None
        return self._view
