import asyncio
import re
import stat
import wave

import pytest

from qwentts_daemon.config.target_schema import WavTarget
from qwentts_daemon.errors import SinkError
from qwentts_daemon.sinks import Services, make_sink
from tests.support.sinks import Facts, Tap, cut, file_size_limit, pcm, tone


def sink(directory, **more):
    return make_sink("archive", WavTarget(type="wav", directory=str(directory), **more), Services())


def content(path):
    with wave.open(str(path)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth()) == (1, 2)
        return wav.getframerate(), wav.readframes(wav.getnframes())


async def test_wav_sink_creates_file_when_complete(tmp_path):
    tap, facts, path = Tap(22_050), Facts(), tmp_path / "archive.wav"
    path.write_bytes(b"the one before")
    playing = asyncio.create_task(sink(tmp_path).play("a1", tap.pcm(), facts))
    for piece in cut(tone(3_000), 1_000):
        tap.pour(piece)
        assert path.read_bytes() == b"the one before"
    tap.end()
    await playing
    assert content(path) == (22_050, tone(3_000))
    assert facts == {"file": str(path)}
    assert list(tmp_path.iterdir()) == [path]


async def test_wav_sink_names_are_unique_within_a_second(tmp_path):
    for _ in range(3):
        await sink(tmp_path, name="{time}.wav").play("a1", pcm(tone(10)), Facts())
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("directory_mode", "mode"), [(0o700, 0o600), (0o755, 0o644), (0o750, 0o640), (0o711, 0o600)])
async def test_wav_sink_file_is_as_readable_as_its_directory(tmp_path, directory_mode, mode):
    tmp_path.chmod(directory_mode)
    await sink(tmp_path).play("a1", pcm(tone(10)), Facts())
    assert stat.S_IMODE((tmp_path / "archive.wav").stat().st_mode) == mode


@pytest.mark.parametrize("announcement", ["a1", "../../etc/passwd", "..", "", "a/b\0c", "ü" * 500, "{time}"])
async def test_wav_sink_id_cannot_leave_the_directory(tmp_path, announcement):
    facts = Facts()
    await sink(tmp_path, name="{time}-{target}-{id}.wav").play(announcement, pcm(tone(10)), facts)
    (path,) = tmp_path.iterdir()
    assert str(path) == facts["file"]
    assert re.fullmatch(r"\d{8}T\d{6}-\d{6}-archive-[A-Za-z0-9_-]{1,64}\.wav", path.name)


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), RuntimeError("no more")])
async def test_wav_sink_leaves_no_file_of_failed_speech(tmp_path, failure):
    async def breaking():
        async for piece in pcm(tone(10), tone(10)):
            yield piece
        raise failure

    with pytest.raises(type(failure)):
        await sink(tmp_path).play("a1", breaking(), Facts())
    assert list(tmp_path.iterdir()) == []


async def test_wav_sink_leaves_no_file_of_empty_audio(tmp_path):
    await sink(tmp_path).play("a1", pcm(), Facts())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("directory", "message"),
    [("none", "No such file"), ("file", "Not a directory"), ("full", "Is a directory|Directory not empty")],
)
async def test_wav_sink_names_unwritable_directory(tmp_path, directory, message):
    (tmp_path / "file").touch()
    (tmp_path / "full" / "archive.wav" / "x").mkdir(parents=True)
    path = tmp_path / directory
    with pytest.raises(SinkError, match=f"^{path / 'archive.wav'}: ({message})"):
        await sink(path).play("a1", pcm(tone(10)), Facts())


async def test_wav_sink_reports_full_disk_and_leaves_no_file(tmp_path):
    with file_size_limit(1_000), pytest.raises(SinkError, match=r"archive\.wav: File too large"):
        await sink(tmp_path).play("a1", pcm(tone(400), tone(400)), Facts())
    assert list(tmp_path.iterdir()) == []
