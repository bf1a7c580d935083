import asyncio
import os
import select
import time
from array import array

import pytest

from qwentts_daemon.config.target_schema import SnapcastTarget
from qwentts_daemon.errors import SinkError
from qwentts_daemon.sinks import Services, make_sink
from qwentts_daemon.sinks.snapcast import AHEAD_S
from tests.support.sinks import Facts, Tap, cut, fifo, pcm, tone, watched


def sink(path, timeout=5.0):
    return make_sink("house", SnapcastTarget(type="snapcast", fifo=str(path), timeout=timeout), Services())


async def test_snapcast_sink_writes_48_khz_stereo(tmp_path):
    speech = tone(4_000, 24_000)
    async with fifo(tmp_path / "snap") as reader:
        playing = asyncio.create_task(sink(tmp_path / "snap").play("a1", pcm(*cut(speech, 700)), Facts()))
        heard = array("h", await reader.read(-1))
        await playing
    assert heard[::2] == heard[1::2]
    assert len(heard) == 2 * 8_000
    wanted = array("h", tone(8_000, 48_000))
    assert max(abs(one - other) for one, other in zip(heard[1000:-1000:2], wanted[500:-500], strict=True)) < 30


async def test_snapcast_sink_writes_while_audio_is_generated(tmp_path):
    tap = Tap(22_050)
    async with fifo(tmp_path / "snap") as reader:
        playing = asyncio.create_task(sink(tmp_path / "snap").play("a1", tap.pcm(), Facts()))
        tap.pour(tone(2_000, 22_050))
        assert await reader.readexactly(4_000)
        tap.end()
        rest = await reader.read(-1)
        await playing
    assert 4 * 2_000 * 48_000 / 22_050 - 8 <= 4_000 + len(rest) <= 4 * 2_000 * 48_000 / 22_050 + 8


async def test_snapcast_sink_closes_fifo_on_cancel_after_whole_frames(tmp_path):
    tap = Tap()
    async with fifo(tmp_path / "snap") as reader:
        playing = asyncio.create_task(sink(tmp_path / "snap").play("a1", tap.pcm(), Facts()))
        tap.pour(tone(48_000))
        got = await reader.readexactly(4)
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        got += await reader.read(-1)
    assert len(got) % 4 == 0


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.touch(), "is not a FIFO"),
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is not a FIFO"),
    ],
)
async def test_snapcast_sink_rejects_path_that_is_not_a_fifo(tmp_path, prepare, message):
    prepare(tmp_path / "snap")
    with pytest.raises(SinkError, match=f"{tmp_path / 'snap'}:? {message}"):
        await sink(tmp_path / "snap").play("a1", pcm(tone(10)), Facts())


async def test_snapcast_sink_reports_fifo_without_reader(tmp_path):
    os.mkfifo(tmp_path / "snap")
    with pytest.raises(SinkError, match=r"snap took no sound for 0\.2 s; is snapserver running\?$"):
        await sink(tmp_path / "snap", timeout=0.2).play("a1", pcm(tone(8_000)), Facts())


async def test_snapcast_sink_reports_reader_that_closes(tmp_path):
    tap = Tap()
    async with fifo(tmp_path / "snap") as reader:
        playing = asyncio.create_task(sink(tmp_path / "snap", timeout=0.2).play("a1", tap.pcm(), Facts()))
        tap.pour(tone(2_000))
        await reader.readexactly(4)
    tap.pour(tone(48_000))
    with pytest.raises(SinkError, match="took no sound"):
        await playing


async def test_snapcast_sink_delivers_all_audio_to_polling_reader(tmp_path):
    """Read as snapserver does without a writer at the FIFO."""
    os.mkfifo(tmp_path / "snap")
    reading = asyncio.create_task(asyncio.to_thread(look_in_until_there_was_sound, tmp_path / "snap"))
    await sink(tmp_path / "snap").play("a1", pcm(*cut(tone(4_000), 1_000)), Facts())
    assert len(await reading) == 4 * 8_000


def look_in_until_there_was_sound(path):
    heard = b""
    while not heard:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as end:
            poll = select.poll()
            poll.register(end, select.POLLIN)
            while (data := end.read(3840)) != b"":
                heard += data or b""
                poll.poll(1000)
    return heard


async def test_snapcast_sink_reports_reader_that_stops_reading(tmp_path):
    async with fifo(tmp_path / "snap") as reader:
        reader._transport.pause_reading()
        with pytest.raises(SinkError, match=r"took no sound for 0\.2 s"):
            await sink(tmp_path / "snap", timeout=0.2).play("a1", pcm(tone(40_000), rate=48_000), Facts())


async def test_snapcast_sink_writes_at_playback_speed(tmp_path):
    began_s = time.monotonic()
    async with fifo(tmp_path / "snap") as reader:
        reading = asyncio.create_task(reader.read(-1))
        await sink(tmp_path / "snap").play("a1", watched(0.6, AHEAD_S), Facts())
        assert len(await reading) == pytest.approx(4 * 0.6 * 48_000, abs=8)
    assert time.monotonic() - began_s >= 0.6
