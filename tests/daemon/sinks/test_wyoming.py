import asyncio
import contextlib
from functools import partial

import pytest
from wyoming.audio import AudioChunk, AudioStart
from wyoming.error import Error
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.snd import Played

from qwentts_daemon.config.target_schema import WyomingTarget
from qwentts_daemon.errors import SinkError
from qwentts_daemon.sinks import Services, make_sink
from qwentts_daemon.sinks.wyoming import AHEAD_S
from tests.support.sinks import Facts, Tap, cut, pcm, tone, watched


class SoundServer(AsyncEventHandler):
    """A server that records events; `answer` maps the type of an event to the answer, or to None to disconnect."""

    def __init__(self, events, answers, *streams):
        super().__init__(*streams)
        self.events, self.answers = events, answers

    async def handle_event(self, event):
        self.events.put_nowait(event)
        if event.type in self.answers:
            answer = self.answers[event.type]
            if answer is None:
                return False
            await self.write_event(answer.event())
        return True

    async def disconnect(self):
        self.events.put_nowait(None)


@contextlib.asynccontextmanager
async def serving(tmp_path, answers=None, uri=""):
    """The sink for a sound server, and the events that this receives; None when a connection has ended."""
    events = asyncio.Queue()
    uri = uri or f"unix://{tmp_path / 'snd.sock'}"
    server = AsyncServer.from_uri(uri)
    await server.start(partial(SoundServer, events, {"audio-stop": Played()} if answers is None else answers))
    try:
        yield sink(uri), events
    finally:
        await server.stop()


def sink(uri, timeout=5.0):
    return make_sink("hall", WyomingTarget(type="wyoming", uri=uri, timeout=timeout), Services())


async def received(events):
    """Everything of one connection."""
    got = []
    while (event := await events.get()) is not None:
        got.append(event)
    return got


async def test_wyoming_sink_sends_all_audio_and_waits_for_played(tmp_path):
    speech = tone(9_000, 22_050)
    async with serving(tmp_path) as (hall, events):
        await hall.play("a1", pcm(*cut(speech, 4096), rate=22_050), Facts())
        got = await received(events)
    assert AudioStart.from_event(got[0]) == AudioStart(22_050, 2, 1)
    assert b"".join(AudioChunk.from_event(event).audio for event in got[1:-1]) == speech
    assert got[-1].type == "audio-stop"


async def test_wyoming_sink_reports_server_that_disconnects():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    uri = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with pytest.raises(SinkError, match=f"{uri} closed the connection before the sound was played"):
            await sink(uri).play("a1", pcm(tone(10)), Facts())


async def test_wyoming_sink_sends_while_audio_is_generated(tmp_path):
    tap = Tap()
    async with serving(tmp_path) as (hall, events):
        playing = asyncio.create_task(hall.play("a1", tap.pcm(), Facts()))
        tap.pour(tone(100))
        assert [(await events.get()).type, (await events.get()).type] == ["audio-start", "audio-chunk"]
        tap.end()
        await playing


async def test_wyoming_sink_sends_at_playback_speed(tmp_path):
    async with serving(tmp_path) as (hall, events):
        await hall.play("a1", watched(0.8, AHEAD_S), Facts())
        assert len(await received(events)) == 2 + 16


async def test_wyoming_sink_does_not_connect_for_empty_audio():
    await sink("unix:///no/such/socket").play("a1", pcm(), Facts())


async def test_wyoming_sink_disconnects_on_cancel(tmp_path):
    tap = Tap()
    async with serving(tmp_path) as (hall, events):
        playing = asyncio.create_task(hall.play("a1", tap.pcm(), Facts()))
        tap.pour(tone(100))
        await events.get()
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        assert "audio-stop" not in [event.type for event in await received(events)]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"audio-start": Error("no such device")}, ": no such device$"),
        ({"audio-chunk": Error("overrun")}, ": overrun$"),
        ({"audio-stop": Error("broken")}, ": broken$"),
        ({"audio-start": None}, "closed the connection"),
        ({"audio-stop": None}, "closed the connection before the sound was played$"),
        ({"audio-stop": AudioStart(1, 2, 1)}, r"did not send `played` within the 0\.2 s after the end of the sound$"),
    ],
)
async def test_wyoming_sink_reports_server_that_does_not_confirm_playback(tmp_path, answers, message):
    async with serving(tmp_path, answers):
        uri = f"unix://{tmp_path / 'snd.sock'}"
        with pytest.raises(SinkError, match=f"^{uri}.*{message}"):
            await sink(uri, timeout=0.2 if "did not" in message else 5.0).play("a1", pcm(tone(10), tone(10)), Facts())


async def test_wyoming_sink_reports_invalid_event_from_server(tmp_path):
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "snd.sock")
    async with server:
        with pytest.raises(SinkError, match="header is not valid JSON"):
            await sink(f"unix://{tmp_path / 'snd.sock'}").play("a1", pcm(tone(10)), Facts())


async def test_wyoming_sink_reports_server_that_stops_reading(tmp_path):
    path = tmp_path / "snd.sock"
    left = asyncio.Event()

    async def ignore(reader, writer):
        reader._transport.pause_reading()
        await left.wait()
        writer.close()

    server = await asyncio.start_unix_server(ignore, path)
    async with server:
        with pytest.raises(SinkError, match=r"took no sound for 0\.2 s"):
            await sink(f"unix://{path}", timeout=0.2).play("a1", pcm(*[bytes(400_000)] * 3, rate=4_000_000), Facts())
        left.set()


@pytest.mark.parametrize(
    ("uri", "message"),
    [("unix:///no/such/socket", "No such file"), ("tcp://127.0.0.1:1", "[Cc]onnect")],
)
async def test_wyoming_sink_reports_unreachable_server(uri, message):
    with pytest.raises(SinkError, match=f"^{uri}: .*{message}"):
        await sink(uri).play("a1", pcm(tone(10)), Facts())
