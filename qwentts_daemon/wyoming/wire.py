"""Wyoming events as bytes, with limits: the wyoming package's own reader accepts headers and bodies of any size.

An event is a line of JSON, then `data_length` bytes of JSON that are merged over the line's `data`, then
`payload_length` bytes. `parse_header` and `parse_data` are pure; only WireError leaves this module.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from wyoming import __version__ as WYOMING_VERSION
from wyoming.event import Event

from ..errors import WireError

HEADER_BYTES = 64 * 1024
DATA_BYTES = 1024 * 1024
PAYLOAD_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of an event."""

    type: str
    data: dict[str, Any]
    data_length: int
    payload_length: int
    line_length: int = 0

    @property
    def size(self) -> int:
        """The length of the whole event in bytes."""
        return self.line_length + self.data_length + self.payload_length


def parse_header(line: bytes) -> Header:
    """Check one line. Raises WireError."""
    header = _json_object(line, "header")
    kind = header.get("type")
    if not isinstance(kind, str) or not kind:
        raise WireError("the event's header lacks a type")
    data = header.get("data")
    if data is not None and not isinstance(data, dict):
        raise WireError(f"the data of {kind[:40]!r} is not a JSON object")
    return Header(
        kind,
        data or {},
        _length(header, "data_length", DATA_BYTES),
        _length(header, "payload_length", PAYLOAD_BYTES),
        len(line),
    )


def parse_data(body: bytes) -> dict[str, Any]:
    """Return the JSON object after the header. Raises WireError."""
    return _json_object(body, "data")


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """Return the next event, or None at the end of the stream. The reader's own limit must be `HEADER_BYTES`.

    Raises WireError for anything that is not an event and for a stream that ends inside one.
    """
    header = await read_header(reader)
    if header is None:
        return None
    data = await read_data(reader, header)
    payload = await _read(reader, header, header.payload_length)
    return Event(header.type, data, payload or None)


async def read_header(reader: asyncio.StreamReader) -> Header | None:
    """Return the next header, or None at the end of the stream. Raises WireError."""
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise WireError(f"the event's header is longer than {HEADER_BYTES} bytes") from error
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise WireError("the stream ended inside a header") from error
        return None
    return parse_header(line)


async def read_data(reader: asyncio.StreamReader, header: Header, limit: int = DATA_BYTES) -> dict[str, Any]:
    """Read and parse the data of an event. Raises WireError, also for more than `limit` bytes."""
    if header.data_length > limit:
        raise WireError(f"data_length {header.data_length} of {header.type[:40]!r} is above the limit of {limit} bytes")
    body = await _read(reader, header, header.data_length)
    return header.data | parse_data(body) if body else header.data


async def skip(reader: asyncio.StreamReader, header: Header, length: int) -> None:
    """Read `length` bytes of an event without keeping them. Raises WireError if the stream ends before."""
    while length:
        piece = await reader.read(min(length, PIECE_BYTES))
        if not piece:
            raise WireError(f"the stream ended inside {header.type[:40]!r}")
        length -= len(piece)


async def _read(reader: asyncio.StreamReader, header: Header, length: int) -> bytes:
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise WireError(f"the stream ended inside {header.type[:40]!r}") from error


def encode_event(event: Event) -> bytes:
    """Return one event as bytes, to be written in one call so that events of several tasks never interleave."""
    header: dict[str, Any] = {"type": event.type, "version": WYOMING_VERSION}
    body = json.dumps(event.data).encode() if event.data else b""
    payload = event.payload or b""
    if body:
        header["data_length"] = len(body)
    if payload:
        header["payload_length"] = len(payload)
    return b"".join((json.dumps(header).encode(), b"\n", body, payload))


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the event's {what} is not valid JSON") from error
    if not isinstance(value, dict):
        raise WireError(f"the event's {what} is not a JSON object")
    return value


def _length(header: dict[str, Any], key: str, limit: int) -> int:
    length = header.get(key)
    if length is None:
        return 0
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise WireError(f"{key} is not a length")
    if length > limit:
        raise WireError(f"{key} {length} is above the limit of {limit} bytes")
    return length
