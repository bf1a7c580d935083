import asyncio
import os
import pickle
import struct
from dataclasses import dataclass, make_dataclass
from multiprocessing import Pipe

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ipc import channel
from engine.ipc.channel import ChannelClosed, ChannelError, Inbox, Outbox, VersionMismatch
from engine.ipc.messages import Cancel, Chunk, Done, Failed, Health, Ready, Started, Stop, Synthesize, Voice

MESSAGES = [
    Chunk(1, b"\0\1" * 960),
    Ready((Voice("ryan", "Ryan", ("en-US",), ("soft",), True),), 4, "tones"),
    Synthesize(7, "ryan", "Grüße.", language="de-DE"),
    Started(1, 24_000, 1.5, 2.5),
    Done(1, 1920, 0.1, cut="too long"),
    Failed(2, "synthesis-failed", "why"),
    Health(0.5, long_running=True),
    Cancel(3),
    Stop(),
]


@dataclass(frozen=True)
class Foreign:
    """A class that the other side does not have."""

    number: int = 1


class Command:
    """A pickle that calls a function of any module."""

    def __reduce__(self):
        return os.getpid, ()


def framed(body):
    return struct.pack(">I", len(body)) + body


RUBBISH = {
    "not a pickle": framed(b"rubbish"),
    "empty": framed(b""),
    "truncated pickle": framed(pickle.dumps(Chunk(1, bytes(100)))[:-20]),
    "function call": framed(pickle.dumps(Command())),
    "unknown class": framed(pickle.dumps(Foreign())),
    "plain value": framed(pickle.dumps([1, 2])),
    "missing field": framed(b"\x80\x05\x8c\x13engine.ipc.messages\x8c\x05Chunk\x93K\x01\x85R."),
    "length of 4 GiB": b"\xff\xff\xff\xff",
    "length above the limit": struct.pack(">I", channel.MAX_MESSAGE_BYTES + 1),
}


def read(data, receive=channel.receive):
    async def run():
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await receive(reader)

    return asyncio.run(run())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_round_trip(message):
    assert read(channel.pack(message)) == message
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        Outbox(writer).put(message)
        assert Inbox(reader).get() == message


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH)
def test_bytes_that_are_not_a_message_raise_channel_error(data):
    with pytest.raises(ChannelError):
        read(data)
    reader, writer = Pipe(duplex=False)
    with reader, writer:
        os.write(writer.fileno(), data)
        with pytest.raises(ChannelError):
            Inbox(reader).get()


@given(st.binary(max_size=60))
def test_any_body_is_a_message_or_raises_channel_error(body):
    with pytest.raises(ChannelError):
        channel.unpack(body)


@pytest.mark.parametrize("end", [0, 2, 4, 20])
def test_end_inside_a_message_closes_the_channel(end):
    with pytest.raises(ChannelClosed):
        read(channel.pack(Chunk(1, bytes(100)))[:end])


def test_greeting_of_the_same_version_is_accepted():
    assert read(channel.greeting(), channel.expect_greeting) is None
    with pytest.raises(ChannelClosed):
        read(channel.greeting()[:-1], channel.expect_greeting)


def test_greeting_changes_with_the_fields_of_a_message(monkeypatch):
    ours = channel.greeting()
    newer = make_dataclass("Chunk", ["job", "pcm", ("loudness", float)])
    monkeypatch.setitem(channel._CLASSES, "Chunk", newer)
    theirs = channel.greeting()
    assert ours != theirs
    monkeypatch.undo()
    with pytest.raises(VersionMismatch):
        read(theirs, channel.expect_greeting)
