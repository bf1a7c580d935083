"""Start, stop, and what is left behind: nothing."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys

import psutil
import pytest
from wyoming.client import AsyncUnixClient
from wyoming.tts import Synthesize

from tests.support.fakes import RATE
from tests.support.harness import PATIENCE_S, ROOT, connected, daemon, hear, outliving, speak, started


def run(*arguments, **options):
    command = [sys.executable, "-m", "qwentts_daemon", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_daemon_and_its_processes(number):
    with started(fake="ToneBackend") as process:
        process.wait_for("is ready", 2)
        family = psutil.Process(process.process.pid).children(recursive=True)
        assert len(family) >= 2
        assert process.stop(number) == 0
        assert not outliving(family)
        assert "Traceback" not in "\n".join(process.lines)


async def test_shutdown_drains_running_reply():
    with started(fake="ToneBackend") as process:
        process.wait_for("is ready: tones")
        async with connected(process) as client:
            await client.write_event(Synthesize("A sentence that takes a while to make. " * 40).event())
            await hear(client, "audio-chunk")
            process.process.send_signal(signal.SIGTERM)
            process.wait_for("stopping")
            heard = await hear(client, "audio-stop")
            assert heard.types[-1] == "audio-stop"
            assert (await hear(client, "never")).events == []
        assert process.wait() == 0


async def test_shutdown_timeout_ends_reply_with_reason():
    with started("daemon.shutdown_timeout=0.2", fake="Endless") as process:
        process.wait_for("is ready: tones")
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
            process.process.send_signal(signal.SIGTERM)
            heard = await hear(client, "never")
        assert heard.code == "shutting-down"
        assert "audio-stop" not in heard.types
        assert process.wait() == 0


async def test_shutdown_rejects_new_replies_and_connections():
    with started("daemon.shutdown_timeout=5", fake="Endless") as process:
        process.wait_for("is ready: tones")
        port = process.port
        async with connected(process) as speaking, connected(process) as late:
            await speaking.write_event(Synthesize("On and on.").event())
            await hear(speaking, "audio-chunk")
            process.process.send_signal(signal.SIGTERM)
            process.wait_for("running replies")
            await late.write_event(Synthesize("Me too.").event())
            assert (await hear(late, "never")).code == "shutting-down"
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
        assert process.wait() == 0


async def test_second_signal_stops_daemon_at_once():
    with started("daemon.shutdown_timeout=60", fake="Endless") as process:
        process.wait_for("is ready: tones")
        workers = process.workers()
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
            process.process.send_signal(signal.SIGTERM)
            process.wait_for("running replies")
            assert process.stop() == 128 + signal.SIGTERM
        assert not outliving(workers)


def test_port_in_use_is_one_error_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        finished = run("--uri", uri, "--backend", "espeak")
    assert finished.returncode == os.EX_UNAVAILABLE
    assert (
        finished.stderr.splitlines()[-1]
        == f"qwentts-daemon: {uri} is in use already; is another daemon running? (wyoming.uri)"
    )
    assert "Traceback" not in finished.stderr


def test_missing_config_is_one_error_line(tmp_path):
    finished = run("--config", str(tmp_path / "none.yaml"))
    assert finished.returncode == os.EX_CONFIG
    assert finished.stderr == f"qwentts-daemon: {tmp_path}/none.yaml: No such file or directory\n"


def test_unknown_key_is_one_error_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("wyoming: {prot: 10200}")
    finished = run("check-config", "--config", str(path))
    assert finished.returncode == os.EX_CONFIG
    assert len(finished.stderr.splitlines()) == 1
    assert "wyoming.prot: unknown key" in finished.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_permission_denied_is_one_error_line(tmp_path):
    tmp_path.chmod(0o500)
    finished = run("--uri", f"unix://{tmp_path}/socket", "--backend", "espeak")
    assert finished.returncode == os.EX_NOPERM
    assert "permission denied" in finished.stderr


async def test_unix_socket_serves_and_is_removed(tmp_path):
    path = tmp_path / "wyoming.socket"
    with started(uri=f"unix://{path}", fake="ToneBackend") as process:
        process.wait_for("is ready: tones")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client = AsyncUnixClient(str(path))
        await client.connect()
        await client.write_event(Synthesize("Over a file.").event())
        assert (await hear(client, "audio-stop")).rate == RATE
        await client.disconnect()
        assert process.stop() == 0
    assert not path.exists()


async def test_stale_unix_socket_is_reused_and_live_one_is_not(tmp_path):
    path = tmp_path / "wyoming.socket"
    with started(uri=f"unix://{path}", fake="ToneBackend") as process:
        process.wait_for("listening")
        finished = run("--uri", f"unix://{path}", "--backend", "espeak")
        assert finished.returncode == os.EX_UNAVAILABLE
        assert "in use already" in finished.stderr
        process.stop(signal.SIGKILL)
    assert path.exists()
    with started(uri=f"unix://{path}", fake="ToneBackend") as process:
        process.wait_for("listening")
        assert process.stop() == 0


def test_stdio_answers_and_exits():
    finished = run(
        "--uri", "stdio://", "--backend", "espeak", input='{"type": "synthesize", "data": {"text": "Over a pipe."}}\n',
        encoding="latin-1",
    )  # fmt: skip
    assert finished.returncode == 0
    assert finished.stdout.startswith('{"type": "audio-start"')
    assert '"type": "audio-stop"' in finished.stdout


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, None], ids=["/dev/null", "a file"])
def test_stdio_without_pipe_is_one_error_line(tmp_path, stdin):
    (tmp_path / "input").write_text("")
    with (tmp_path / "input").open() as file:
        finished = run("--uri", "stdio://", "--backend", "espeak", stdin=file if stdin is None else stdin)
    assert finished.returncode == os.EX_USAGE
    assert (
        finished.stderr.splitlines()[-1]
        == "qwentts-daemon: stdio:// needs pipes or sockets as standard input and output"
    )


async def test_thousand_connections_leak_nothing():
    with daemon("wyoming.max_connections=2000", fake="ToneBackend") as process:
        process.wait_for("qwentts-espeak is ready")
        await speak(process, "Warm up.")
        process.wait_for("disconnected")
        before = process.census()
        for _ in range(50):
            await asyncio.gather(*(touch(process) for _ in range(20)))
        process.wait_for("disconnected", 1001)
        assert process.leaks(before) == {}


async def touch(process):
    async with connected(process):
        pass


def test_daemon_modules_do_not_import_torch():
    code = (
        "import sys, pkgutil, importlib, qwentts_daemon, engine.worker.process\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *_):\n"
        "        assert name.partition('.')[0] not in ('torch', 'transformers', 'numpy'), name\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "for module in pkgutil.walk_packages(qwentts_daemon.__path__, 'qwentts_daemon.'):\n"
        "    if module.name.endswith(('.__main__', '.resampler', '.snapcast')): continue\n"
        "    importlib.import_module(module.name)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


async def test_running_daemon_has_not_loaded_torch():
    with daemon() as process:
        await speak(process, "Hello.")
        for each in (psutil.Process(process.process.pid), *process.workers()):
            assert not [mapped.path for mapped in each.memory_maps() if "torch" in mapped.path]
