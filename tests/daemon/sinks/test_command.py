import asyncio
import os
import sys
from contextlib import aclosing

import psutil
import pytest

from qwentts_daemon.config.target_schema import CommandTarget
from qwentts_daemon.errors import SinkError
from qwentts_daemon.sinks import Services, make_sink
from tests.support.sinks import Facts, Tap, cut, fifo, pcm, tone

RECORDER = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as out:
    while data := os.read(0, 65536):
        out.write(data)
"""


def sink(*words, timeout=10.0):
    return make_sink("kitchen", CommandTarget(type="command", command=words, timeout=timeout), Services())


def recorder(path, *more):
    return sink(sys.executable, "-c", RECORDER, str(path), *more)


async def play(sink, *pieces, rate=24_000):
    await sink.play("a1", pcm(*pieces, rate=rate), Facts())


async def test_command_sink_writes_all_audio(tmp_path):
    speech = tone(30_000)
    await play(recorder(tmp_path / "out"), *cut(speech, 4096))
    assert (tmp_path / "out").read_bytes() == speech


async def test_command_sink_plays_while_audio_is_generated(tmp_path):
    tap, speech = Tap(), tone(4_800)
    async with fifo(tmp_path / "out") as out:
        playing = asyncio.create_task(recorder(tmp_path / "out").play("a1", tap.pcm(), Facts()))
        tap.pour(speech[:2000])
        assert await out.readexactly(2000) == speech[:2000]
        tap.pour(speech[2000:])
        tap.end()
        await playing
        assert await out.read() == speech[2000:]


async def test_command_sink_replaces_rate_placeholder(tmp_path):
    script = "import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:])); sys.stdin.read()"
    words = (sys.executable, "-c", script, str(tmp_path / "out"), "-r{rate}", "{name} $HOME;")
    await play(sink(*words), tone(10), rate=22_050)
    assert (tmp_path / "out").read_text() == "-r22050 {name} $HOME;"


async def test_command_sink_hides_environment_from_player(tmp_path, monkeypatch):
    monkeypatch.setenv("QWENTTS_MQTT_PASSWORD", "secret")
    await play(sink("sh", "-c", f"env > {tmp_path / 'out'}; cat > /dev/null"), tone(10))
    assert "PATH=" in (tmp_path / "out").read_text()
    assert "QWENTTS" not in (tmp_path / "out").read_text()


async def test_command_sink_starts_no_player_for_empty_audio(tmp_path):
    await play(recorder(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("/no/such/player",), "/no/such/player cannot be started: No such file"),
        (("/etc/passwd",), "/etc/passwd cannot be started: Permission denied"),
        (("sh", "-c", "cat > /dev/null; echo one >&2; echo no such device >&2; echo >&2; exit 3"),
         "sh failed, status 3: no such device$"),
        (("sh", "-c", "echo busy >&2; exit 1"), "sh ended before the sound did, status 1: busy$"),
        (("sh", "-c", "head -c 10 >/dev/null"), "sh ended before the sound did, status 0$"),
        (("sh", "-c", "kill -9 $$"), "sh ended before the sound did, status -9$"),
        (("sh", "-c", "head -c 999999 /dev/zero | tr '\\0' x >&2; cat >/dev/null; false"),
         "sh failed, status 1: x{200}$"),
    ],
)  # fmt: skip
async def test_command_sink_reports_error_of_player(words, message):
    with pytest.raises(SinkError, match=message):
        await play(sink(*words), *cut(tone(300_000), 4096))


async def test_command_sink_kills_player_that_reads_nothing(tmp_path):
    hanging = sink("sh", "-c", f"echo $$ > {tmp_path / 'pid'}; echo stuck >&2; sleep 1000", timeout=0.5)
    with pytest.raises(SinkError, match=r"^sh took no sound for 0\.5 s: stuck$"):
        await play(hanging, *cut(tone(300_000), 4096))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


async def test_command_sink_kills_player_that_does_not_exit(tmp_path):
    with pytest.raises(SinkError, match=r"sh still ran 0\.2 s after the end of the sound$"):
        await play(sink("sh", "-c", "cat >/dev/null; exec sleep 1000", timeout=0.2), tone(10))


async def test_command_sink_does_not_wait_for_children_of_player(tmp_path):
    script = f"cat >/dev/null; sleep 1000 & echo $! > {tmp_path / 'pid'}"
    before = psutil.Process().num_fds()
    await play(sink("sh", "-c", script, timeout=1), tone(10))
    await asyncio.sleep(0)  # a transport that is closed lets go in the next turn of the loop
    assert psutil.Process().num_fds() <= before
    psutil.Process(int((tmp_path / "pid").read_text())).kill()


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
async def test_command_sink_kills_player_and_children_on_cancel(tmp_path, trap):
    tap = Tap()
    script = f"{trap}exec 3>{tmp_path / 'life'}; sleep 1000 & echo began >&3; cat; wait"
    async with fifo(tmp_path / "life") as life, aclosing(tap.pcm()) as speech:
        playing = asyncio.create_task(sink("sh", "-c", script).play("a1", speech, Facts()))
        tap.pour(tone(10))
        assert await life.readline() == b"began\n"
        playing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing
        assert await life.read() == b""  # every writer has closed it
    assert tap.closed.is_set()


async def test_command_sink_kills_starting_player_on_cancel(tmp_path):
    script = f"exec 3>{tmp_path / 'life'}; sleep 1000 & wait"
    async with fifo(tmp_path / "life") as life:
        first = os.open(tmp_path / "life", os.O_WRONLY)
        for turns in range(8):
            playing = asyncio.create_task(play(sink("sh", "-c", script), tone(10)))
            for _ in range(turns):
                await asyncio.sleep(0)
            playing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await playing
        os.close(first)
        assert await life.read() == b""  # every writer has closed it


async def test_command_sink_kills_player_when_speech_fails(tmp_path):
    tap = Tap()
    tap.pour(tone(10))
    tap.end(RuntimeError("no more"))
    before = set(psutil.Process().children())
    with pytest.raises(RuntimeError, match="no more"):
        await recorder(tmp_path / "out").play("a1", tap.pcm(), Facts())
    assert set(psutil.Process().children()) <= before  # others may end meanwhile
