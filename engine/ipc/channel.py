"""A queue of messages over a pipe, each a length and a pickle, so that each side can read it in its own way.

The worker uses the blocking `Inbox` and `Outbox`; the daemon reads and writes the same bytes through asyncio and
so never waits for a worker that has stopped half-way through a message. `multiprocessing.Queue` would do neither:
its feeder thread waits for the GIL of a busy producer, and its `get` cannot be awaited.

A worker first sends `greeting()`. Only the classes of `messages` can be unpickled, so the bytes of one process cannot
run code in the other, and a process of another version is recognised before its first message.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import io
import os
import pickle
import select
import struct
import threading
from dataclasses import fields
from multiprocessing.connection import Connection
from typing import Any, get_args

from . import messages, settings

_LENGTH = struct.Struct(">I")
CAPACITY_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 8 << 20
"""The longest messages are those with audio or text: a few 100 KiB."""

_CLASSES = {each.__name__: each for each in (*get_args(messages.Command), *get_args(messages.Event), messages.Voice)}
_SETTINGS = (settings.Settings, settings.ModelSettings)


class ChannelClosed(Exception):
    """The other side is gone."""


class ChannelError(Exception):
    """The other side sent bytes that are not a message."""


class VersionMismatch(ChannelError):
    """The other side has other messages: it is of another version."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """Return a class of `messages`; https://docs.python.org/3/library/pickle.html#restricting-globals."""
        if module != messages.__name__ or name not in _CLASSES:
            raise pickle.UnpicklingError(f"{module}.{name} is not a message")
        found: type = _CLASSES[name]
        return found


def greeting() -> bytes:
    """Return a digest of the fields of all messages and settings, which differs between incompatible versions."""
    classes = [*_CLASSES.values(), *_SETTINGS]
    layout = [(each.__name__, [(field.name, str(field.type)) for field in fields(each)]) for each in classes]
    return hashlib.sha256(repr(layout).encode()).digest()


async def expect_greeting(reader: asyncio.StreamReader) -> None:
    """Read the greeting of a worker. Raises VersionMismatch, and ChannelClosed if the worker ends before."""
    expected = greeting()
    try:
        received = await reader.readexactly(len(expected))
    except asyncio.IncompleteReadError as error:
        raise ChannelClosed from error
    if received != expected:
        raise VersionMismatch("it was installed in another version while the daemon was running")


def pack(message: object) -> bytes:
    """Return one message as it crosses the pipe."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> Any:
    """Return the message in `body`. Raises ChannelError."""
    try:
        message = _Unpickler(io.BytesIO(body)).load()
    except Exception as error:  # damaged pickles raise exceptions of any kind
        raise ChannelError(f"{type(error).__name__}: {error}") from error
    if type(message) not in _CLASSES.values():
        raise ChannelError(f"{type(message).__name__} is not a message")
    return message


async def receive(reader: asyncio.StreamReader) -> Any:
    """Return the next message from a pipe. Raises ChannelError, and ChannelClosed at its end, also inside a message."""
    try:
        length = _checked_length(await reader.readexactly(_LENGTH.size))
        return unpack(await reader.readexactly(length))
    except asyncio.IncompleteReadError as error:
        raise ChannelClosed from error


def _checked_length(head: bytes) -> int:
    length: int = _LENGTH.unpack(head)[0]
    if length > MAX_MESSAGE_BYTES:
        raise ChannelError(f"a message of {length} bytes is above the limit of {MAX_MESSAGE_BYTES}")
    return length


def enlarge(pipe: Connection) -> None:
    """Set the largest pipe capacity that an ordinary user may have, so that a busy reader never stalls its writer."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or the user's pipe quota is spent: 64 KiB then
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CAPACITY_BYTES)


class Outbox:
    """The worker's end for events: `put` waits while the pipe is full."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def greet(self) -> None:
        """Send the greeting. Raises ChannelClosed."""
        self._write(greeting())

    def put(self, message: object) -> None:
        """Send one message, from any thread. Raises ChannelClosed."""
        self._write(pack(message))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
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
        """Whether a message, or the end of the channel, arrives within `timeout_s`."""
        return bool(self._poll.poll(timeout_s * 1000))

    def get(self) -> Any:
        """Return the next message, and wait for it. Raises ChannelClosed and ChannelError."""
        return unpack(self._read(_checked_length(self._read(_LENGTH.size))))

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._pipe.fileno(), size - len(parts))
            if not part:
                raise ChannelClosed
            parts += part
        return bytes(parts)
