"""A queue of messages over a pipe: length and pickle, so that each side can read it in its own way.

The worker uses the blocking `Inbox` and `Outbox`; the daemon reads and writes the same bytes through asyncio and
so never waits for a worker that has stopped half-way through a message. `multiprocessing.Queue` would do neither:
its feeder thread waits for the GIL of a busy producer, and its `get` cannot be awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pickle
import select
import struct
import threading
from multiprocessing.connection import Connection
from typing import Any

_LENGTH = struct.Struct(">I")
CAPACITY_BYTES = 1 << 20


class ChannelClosed(Exception):
    """The other side is gone."""


def pack(message: object) -> bytes:
    """One message as it crosses the pipe."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


async def receive(reader: asyncio.StreamReader) -> Any:
    """The next message from a pipe. Raises ChannelClosed at its end, also in the middle of a message."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return pickle.loads(await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        raise ChannelClosed from error


def enlarge(pipe: Connection) -> None:
    """Give a pipe the largest capacity an ordinary user may have, so that a busy reader never stalls its writer."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or the user's pipe quota is spent: 64 KiB then
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CAPACITY_BYTES)


class Outbox:
    """The worker's end for events: `put` waits while the pipe is full."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def put(self, message: object) -> None:
        """Send one message, from any thread. Raises ChannelClosed."""
        view = memoryview(pack(message))
        try:
            with self._lock:
                while view:
                    view = view[os.write(self._pipe.fileno(), view) :]
        except BrokenPipeError as error:
            raise ChannelClosed from error


class Inbox:
    """The worker's end for commands."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._poll = select.poll()
        self._poll.register(pipe.fileno(), select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Whether a message, or the end of the channel, is there within `timeout_s`."""
        return bool(self._poll.poll(timeout_s * 1000))

    def get(self) -> Any:
        """The next message, waiting for it. Raises ChannelClosed."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return pickle.loads(self._read(length))

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._pipe.fileno(), size - len(parts))
            if not part:
                raise ChannelClosed
            parts += part
        return bytes(parts)
