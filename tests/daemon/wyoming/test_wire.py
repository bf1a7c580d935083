import asyncio
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wyoming.event import Event, async_read_event

from qwentts_daemon.errors import WireError
from qwentts_daemon.wyoming.wire import (
    DATA_BYTES,
    HEADER_BYTES,
    PAYLOAD_BYTES,
    encode_event,
    read_data,
    read_event,
    read_header,
    skip,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)
events = st.builds(
    Event,
    type=st.text(min_size=1, max_size=20),
    data=st.dictionaries(st.text(max_size=10), json_values, max_size=5),
    payload=st.none() | st.binary(min_size=1, max_size=200),
)


def read_all(data: bytes) -> list[Event]:
    async def read() -> list[Event]:
        reader = asyncio.StreamReader(limit=HEADER_BYTES)
        reader.feed_data(data)
        reader.feed_eof()
        found = []
        while event := await read_event(reader):
            found.append(event)
        return found

    return asyncio.run(read())


@given(st.lists(events, max_size=3))
def test_events_round_trip(sent):
    assert read_all(b"".join(map(encode_event, sent))) == sent


@given(events)
def test_wyoming_package_reads_our_events(event):
    async def read() -> Event | None:
        reader = asyncio.StreamReader()
        reader.feed_data(encode_event(event))
        reader.feed_eof()
        return await async_read_event(reader)

    assert asyncio.run(read()) == event


@given(
    st.binary(max_size=300)
    | st.builds(lambda head, tail: json.dumps(head).encode() + b"\n" + tail, json_values, st.binary(max_size=50))
)
@example(b'{"type": "x", "payload_length": 1' + b"0" * 5000 + b"}\n")
def test_any_bytes_parse_or_raise_wire_error(data):
    try:
        read_all(data)
    except WireError as error:
        assert str(error)


def test_header_and_body_data_are_merged():
    (event,) = read_all(b'{"type": "a", "data": {"x": 1, "y": 1}, "data_length": 8}\n{"y": 2}')
    assert event == Event("a", {"x": 1, "y": 2})


def test_null_data_means_empty_data():
    assert read_all(b'{"type": "a", "data": null}\n') == [Event("a", {})]


def test_carriage_returns_are_ignored():
    assert read_all(b'{"type": "a"}\r\n') == [Event("a", {})]


def read_with(data: bytes, read):
    """Return what `read` returns for the first event of `data`, and what it leaves unread."""

    async def run():
        reader = asyncio.StreamReader(limit=HEADER_BYTES)
        reader.feed_data(data)
        reader.feed_eof()
        return await read(reader, await read_header(reader)), await reader.read()

    return asyncio.run(run())


def test_read_data_rejects_size_beyond_limit_before_reading():
    body = b'{"text": "' + b"a" * 200 + b'"}'
    event = b'{"type": "ping", "data_length": %d}\n' % len(body) + body
    assert read_with(event, lambda reader, header: read_data(reader, header, len(body)))[0] == {"text": "a" * 200}
    with pytest.raises(WireError, match="data_length 212 of 'ping' is above the limit of 100 bytes"):
        read_with(event, lambda reader, header: read_data(reader, header, 100))


def test_skip_keeps_the_next_event():
    event = b'{"type": "a", "data_length": 3, "payload_length": 200000}\n' + b"!" * 200_003
    skipped = read_with(event + b"next", lambda reader, header: skip(reader, header, header.size - header.line_length))
    assert skipped == (None, b"next")
    with pytest.raises(WireError, match="ended inside 'a'"):
        read_with(event[:-1], lambda reader, header: skip(reader, header, 200_003))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{" + b" " * HEADER_BYTES + b"}\n", "longer than"),
        (b"[" * 20_000 + b"\n", "not valid JSON"),
        (b'{"type": "\xff"}\n', "not valid JSON"),
        (b"\n", "not valid JSON"),
        (b"[1]\n", "not a JSON object"),
        (b"{}\n", "lacks a type"),
        (b'{"type": 5}\n', "lacks a type"),
        (b'{"type": "a", "data": [1]}\n', "data of 'a' is not a JSON object"),
        (b'{"type": "a", "data_length": "3"}\n', "data_length is not a length"),
        (b'{"type": "a", "data_length": true}\n', "data_length is not a length"),
        (b'{"type": "a", "payload_length": -1}\n', "payload_length is not a length"),
        (b'{"type": "a", "payload_length": 1000000000000}\n', "above the limit"),
        (b'{"type": "a", "data_length": %d}\n' % (DATA_BYTES + 1), "above the limit"),
        (b'{"type": "a", "payload_length": %d}\n' % (PAYLOAD_BYTES + 1), "above the limit"),
        (b'{"type": "a", "data_length": 2}\n[]', "not a JSON object"),
        (b'{"type": "a", "data_length": 9}\n{}', "ended inside 'a'"),
        (b'{"type": "a"', "ended inside a header"),
    ],
)  # fmt: skip
def test_invalid_events_raise_with_reason(data, message):
    with pytest.raises(WireError, match=message):
        read_all(data)
