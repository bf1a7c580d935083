import asyncio

import pytest

from qwentts_daemon.audio.broadcast import MAX_BYTES, BroadcastBuffer
from qwentts_daemon.audio.pcm import Pcm
from qwentts_daemon.errors import SpeechError


def piece(number, size=2):
    return Pcm(24_000, bytes([number] * size))


async def heard(recording, reader):
    return [pcm.samples[0] async for pcm in recording.read(reader)]


async def test_broadcast_delivers_all_audio_to_late_readers():
    recording = BroadcastBuffer(["a", "b"])
    first = asyncio.create_task(heard(recording, "a"))
    for number in range(3):
        recording.write(piece(number))
        await asyncio.sleep(0)
    recording.end()
    assert await first == [0, 1, 2]
    assert await heard(recording, "b") == [0, 1, 2]


async def test_broadcast_drops_audio_that_all_readers_have():
    recording = BroadcastBuffer(["a", "b"])
    for number in range(4):
        recording.write(piece(number, 100))
    recording.end()
    await heard(recording, "a")
    assert recording.kept_bytes == 400
    reading = recording.read("b")
    await anext(reading)
    assert recording.kept_bytes == 300
    recording.leave("b")
    assert recording.kept_bytes == 0
    await reading.aclose()


async def test_broadcast_raises_error_after_the_audio_before_it():
    recording = BroadcastBuffer(["a"])
    recording.write(piece(7))
    recording.end(SpeechError("synthesis-failed", "no more"))
    reading = recording.read("a")
    assert (await anext(reading)).samples[0] == 7
    with pytest.raises(SpeechError, match="no more"):
        await anext(reading)


def test_broadcast_buffer_is_bounded():
    recording = BroadcastBuffer(["a"])
    recording.write(piece(0, MAX_BYTES + 2))
    with pytest.raises(SpeechError, match="32 MiB"):
        recording.write(piece(0))


def test_broadcast_without_readers_buffers_nothing():
    recording = BroadcastBuffer(["a"])
    recording.leave("a")
    recording.write(piece(0, 2_000))
    assert recording.kept_bytes == 0
    assert recording.seconds == pytest.approx(1_000 / 24_000)
