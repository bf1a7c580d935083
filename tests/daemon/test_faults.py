"""Recovery from faults: the client receives speech or an error, the next one is served, and nothing leaks."""

import ast
import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart

from engine.model.config import SAMPLE_RATE
from engine.voices.folder import read_folder
from engine.voices.prompt import VoicePrompt
from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.workers.queue import Turn
from qwentts_daemon.wyoming.server import SlowClientGuard
from tests.engine.support.qwen3 import put_voice
from tests.engine.support.tiny_models import tiny_directory
from tests.support.fakes import RATE
from tests.support.faults import suffer
from tests.support.harness import ROOT, connected, daemon, hear, running_pool, speak

GROWTH_MB = 16
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@pytest.mark.parametrize(
    ("name", "alone", "told"),
    [
        ("worker killed before its first audio", False, "embedded"),
        ("worker killed before its first audio", True, "engine-unavailable"),
        ("worker killed while it speaks", False, "speech, then engine-unavailable"),
        ("worker out of memory", False, "embedded"),
        ("disk full when a worker starts", False, "embedded"),
        ("engine four times slower than speech", False, "speech"),
        ("daemon stopped for 4 s while it speaks", True, "speech"),
        ("second daemon on the same port", False, f"exit status {os.EX_UNAVAILABLE}"),
        ("1,000 connections, half of them broken off in an event", False, "speech"),
        ("client that reads nothing (`write_timeout` 1 s)", False, "cut off"),
        ("client that stops in an event (`idle_timeout` 1 s)", False, "idle-timeout"),
    ],
)
async def test_daemon_recovers_from_fault(name, alone, told):
    result = await suffer(name, alone)
    assert result.told.what == told
    assert result.leaks == {}
    assert result.grown_mb < GROWTH_MB


async def test_full_disk_loses_only_the_cached_voice_prompt(tmp_path):
    voice = put_voice(tmp_path, "anna", 1, "hello world", kind="clone")
    settings = (
        "engine.backend=qwen3", f"engine.model={tiny_directory('base')}", "engine.devices=cpu", "engine.dtype=float32",
        "sampling.max_new_tokens=14", f"voices.dir={tmp_path}",
    )  # fmt: skip
    unmeasured = {"COVERAGE_PROCESS_CONFIG": ""}  # coverage could not write its data there
    with daemon(*settings, fake="tests.support.full_disk:Qwen3OnFullDisk", **unmeasured) as process:
        process.wait_for("its voice prompt is not kept: .*File too large")
        assert (await speak(process, "Who needs a disk?")).rate == SAMPLE_RATE
    assert sorted(path.name for path in voice.iterdir()) == ["reference.wav", "transcript.txt", "voice.yaml"]


def test_failed_save_of_voice_prompt_leaves_no_file(tmp_path):
    import torch

    class Broken(torch.Tensor):
        def float(self):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        VoicePrompt(torch.ones(4).as_subclass(Broken)).save(tmp_path / "prompt.npz")
    assert list(tmp_path.iterdir()) == []


# --- the wall clock -----------------------------------------------------------------------------------------------

WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"), ("datetime", "now"),
               ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}  # fmt: skip


@pytest.mark.parametrize("package", ["qwentts_daemon", "engine"])
def test_product_code_does_not_read_the_wall_clock(package):
    """Check that waits, deadlines and ages use monotonic clocks; only the WAV sink names files after the time."""
    asked = [
        f"{path}:{node.lineno}"
        for path in (ROOT / package).rglob("*.py")
        if path.name != "wav_file.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in WALL_CLOCKS
    ]  # fmt: skip
    assert asked == []


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (Debian: apt install faketime)")
async def test_wall_clock_jump_does_not_affect_running_reply(tmp_path):
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
             "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}  # fmt: skip
    with daemon("engine.fallback=false", "engine.keep_alive=3600", fake="ToneBackend", **faked) as process:
        years = [process.lines[0][:4]]
        for jump in ("+400d", "-400d"):
            async with connected(process) as client:
                await client.write_event(Synthesize("On and on. " * 200).event())
                await hear(client, "audio-chunk")
                clock.write_text(jump)
                assert (await hear(client, "audio-stop")).types[-1] == "audio-stop"
            process.wait_for("disconnected", len(years))
            years.append(process.lines[-1][:4])
        assert len(set(years)) == 3, "the daemon's own clock has jumped"
        assert (await speak(process, "What time is it?")).rate == RATE
        assert len([line for line in process.lines if "is ready" in line]) == 1


# --- further ways to harm a daemon --------------------------------------------------------------------------------


async def test_daemon_logs_descriptor_shortage_once_and_recovers():
    with daemon("wyoming.max_connections=500", fake="ToneBackend") as process:
        process.wait_for("qwentts-espeak is ready")
        await speak(process, "Warm up.")
        before = process.census()
        daemon_process = psutil.Process(process.process.pid)
        limits = daemon_process.rlimit(psutil.RLIMIT_NOFILE)
        daemon_process.rlimit(psutil.RLIMIT_NOFILE, (40, limits[1]))
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(socket.create_connection(("127.0.0.1", process.port))).sendall(b'{"type": ')
            process.wait_for("connections cannot be accepted at present: Too many open files")
        assert (await speak(process, "Room again.")).seconds
        assert process.leaks(before) == {}
        assert len([line for line in process.lines if "cannot be accepted" in line]) == 1


def test_daemon_raises_descriptor_limit_for_max_connections():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, limits[1]))
        with daemon("wyoming.max_connections=400", fake="ToneBackend") as process:
            assert psutil.Process(process.process.pid).rlimit(psutil.RLIMIT_NOFILE)[0] == 656
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("event", [SynthesizeChunk("and on. "), Ping()], ids=["words", "pings"])
async def test_endless_text_stream_releases_its_slot(event):
    with daemon("text.timeout=0.3", "engine.fallback=false", fake="EndlessSingle") as process:
        async with connected(process) as client:
            await client.write_event(SynthesizeStart().event())
            await client.write_event(SynthesizeChunk("On and on ").event())
            heard, sender = await asyncio.gather(hear(client, "never"), trickle(client, event.event()))
            assert heard.code == "deadline-exceeded"
            assert sender is None
        assert (await first_chunk(process)) == ["audio-start", "audio-chunk"]


async def trickle(client, event):
    """The same now and then, as slowly as one likes."""
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            await client.write_event(event)
            await asyncio.sleep(0.02)


async def first_chunk(process):
    async with connected(process) as client:
        await client.write_event(Synthesize("My turn.").event())
        return (await hear(client, "audio-chunk")).types


def test_slow_client_guard_allows_playback_speed_plus_grace():
    as_heard, slower = SlowClientGuard(grace_s=30), SlowClientGuard(grace_s=30)
    assert all(as_heard.sent(1.0, 1.0) for _ in range(3600))
    assert [slower.sent(1.0, 4.0) for _ in range(11)] == [True] * 10 + [False]


async def test_worker_starts_in_deleted_working_directory(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    async with (
        running_pool("ToneBackend") as pool,
        pool.job(SynthesisRequest("ryan"), "Hello.", Turn()) as job,
    ):
        assert await job.read()


def test_read_folder_reports_named_pipe_without_blocking(tmp_path):
    (tmp_path / "anna").mkdir()
    os.mkfifo(tmp_path / "anna" / "voice.yaml")
    assert read_folder(tmp_path) == ({}, {"anna": f"{tmp_path}/anna/voice.yaml: is not a file"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user id")
def test_voices_dir_without_home_directory_names_setting():
    code = (
        "import os; from qwentts_daemon.config.loader import load; from qwentts_daemon.errors import ConfigError\n"
        "from qwentts_daemon.config.paths import default_path, voices_dir\n"
        "os.setuid(54321)\n"
        "try: voices_dir(load(default_path({}), {}), {})\n"
        "except ConfigError as error: print(error)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.stdout == "voices.dir: this user does not have a home directory; set a directory\n"
