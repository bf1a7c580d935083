"""The daemon as a service of systemd: notifications, watchdog and socket activation."""

import contextlib
import math
import os
import shutil
import socket
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming.client import AsyncUnixClient
from wyoming.tts import Synthesize

from qwentts_daemon.service.sd_notify import take_notifier, take_sockets, take_watchdog_s
from qwentts_daemon.service.watchdog import TROUBLE_POLL_S, silence_allowed_s
from qwentts_daemon.workers.process import STOP_TIMEOUT_S
from tests.support.fakes import RATE
from tests.support.harness import Systemd, connected, daemon, hear, speak, started

VARIABLES = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}


@pytest.fixture(params=["path", "abstract"])
def anywhere(request, tmp_path):
    systemd = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@qwentts-test-{os.getpid()}")
    with systemd.socket:
        yield systemd


@pytest.fixture
def systemd(tmp_path):
    systemd = Systemd(str(tmp_path / "notify"))
    with systemd.socket:
        yield systemd


# --- notifications --------------------------------------------------------------------------------------------


async def test_notify_reports_loading_idle_speaking_and_stopping(anywhere, tmp_path):
    gate = tmp_path / "gate"
    with started("engine.fallback=false", fake="SlowLoading", TEST_GATE=str(gate), **anywhere.environment) as process:
        assert "STATUS=loading qwentts-qwen3" in anywhere.until("READY=1")
        gate.touch()
        anywhere.until("STATUS=idle")
        assert (await speak(process, "Good evening.")).rate == RATE
        anywhere.until("STATUS=speaking 1")
        anywhere.until("STATUS=idle")
        assert process.stop() == 0
        assert anywhere.until("STOPPING=1")[-1].splitlines()[1] == "EXTEND_TIMEOUT_USEC=20000000"
        anywhere.until("STATUS=stopping")


async def test_notify_sends_ready_once_describe_is_answered(systemd, tmp_path):
    with started(fake="SlowLoading", TEST_GATE=str(tmp_path / "gate"), **systemd.environment) as process:
        systemd.until("READY=1")
        async with connected(process) as client:
            await client.write_event(Synthesize("Is anybody there?").event())
            assert (await hear(client, "audio-stop")).rate


async def test_notify_status_counts_running_and_waiting_replies(systemd):
    with daemon("engine.fallback=false", fake="EndlessSingle", **systemd.environment) as process:
        async with connected(process) as first, connected(process) as second:
            await first.write_event(Synthesize("On and on.").event())
            systemd.until("STATUS=speaking 1")
            await second.write_event(Synthesize("Me too.").event())
            systemd.until("STATUS=speaking 1, 1 waiting")


def test_notify_status_reports_why_only_fallback_speaks(systemd):
    with daemon(fake="Unloadable", ready="qwentts-espeak", **systemd.environment):
        systemd.until("STATUS=qwentts-qwen3 cannot be loaded: no such model")


def test_workers_do_not_inherit_systemd_variables(systemd):
    with daemon(fake="ToneBackend", WATCHDOG_USEC="60000000", **systemd.environment) as process:
        for worker in process.workers():
            assert not VARIABLES & psutil.Process(worker.pid).environ().keys()


def test_missing_notify_socket_is_logged_as_warning(tmp_path):
    with daemon(fake="ToneBackend", NOTIFY_SOCKET=str(tmp_path / "nobody")) as process:
        process.wait_for(r"could not send READY to systemd: .*No such file")


# --- the watchdog ---------------------------------------------------------------------------------------------


def test_watchdog_is_notified_repeatedly(systemd):
    with daemon(fake="ToneBackend", WATCHDOG_USEC="200000", **systemd.environment):
        for _ in range(5):
            systemd.until("WATCHDOG=1")


def test_watchdog_of_another_process_is_not_notified(systemd):
    with daemon(fake="ToneBackend", WATCHDOG_USEC="1000", WATCHDOG_PID="1", **systemd.environment) as process:
        assert process.stop() == 0
        assert "WATCHDOG=1" not in systemd.until("STOPPING=1")


def test_watchdog_pauses_until_silent_worker_is_replaced(systemd):
    settings = ("engine.fallback=false", "engine.heartbeat_timeout=3")
    with daemon(*settings, fake="ToneBackend", WATCHDOG_USEC="500000", **systemd.environment) as process:
        systemd.until("STATUS=idle")
        systemd.until("WATCHDOG=1")
        process.workers()[0].suspend()
        systemd.until("STATUS=qwentts-qwen3 is silent")
        assert "WATCHDOG=1" not in systemd.until("STATUS=")
        systemd.until("WATCHDOG=1")
        process.wait_for("is ready", 2)


async def test_worker_without_audio_until_job_timeout_is_replaced(systemd):
    settings = ("engine.fallback=false", "engine.job_timeout=0.5")
    with daemon(*settings, fake="Mute", WATCHDOG_USEC="60000000", **systemd.environment) as process:
        (worker,) = process.workers()
        assert (await speak(process, "Say something.")).code == "deadline-exceeded"
        process.wait_for("it hangs")
        process.wait_for("is ready", 2)
        assert process.workers()[0].pid != worker.pid


async def test_worker_is_kept_when_only_one_of_its_jobs_times_out():
    settings = ("engine.fallback=false", "engine.job_timeout=0.5")
    with daemon(*settings, fake="MuteOnDemand") as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("Words without end. " * 200).event())
            await hear(client, "audio-chunk")
            assert (await speak(process, "[mute]")).code == "deadline-exceeded"
        assert (await speak(process, "And I?")).rate == RATE
        assert not [line for line in process.lines if "hangs" in line]


@given(st.floats(3, 3600), st.floats(15, 3600))
def test_silence_allowed_leaves_time_to_replace_worker_before_watchdog(heartbeat_timeout_s, watchdog_s):
    silence_s = silence_allowed_s(heartbeat_timeout_s, watchdog_s)
    assert heartbeat_timeout_s / 2 <= silence_s < heartbeat_timeout_s
    unfed_s = watchdog_s / 2 + heartbeat_timeout_s - silence_s + STOP_TIMEOUT_S + TROUBLE_POLL_S
    assert unfed_s < watchdog_s


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, math.inf),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, math.inf),
        ({"WATCHDOG_USEC": "0"}, math.inf),
        ({"WATCHDOG_USEC": "soon"}, math.inf),
    ],
)
def test_take_watchdog_s_reads_interval_of_this_process(environment, seconds):
    assert take_watchdog_s(environment) == seconds
    assert environment == {}


def test_take_notifier_without_socket_sends_nothing():
    environment = {}
    take_notifier(environment).ready()
    assert environment == {}


# --- socket activation ----------------------------------------------------------------------------------------


HAND_DOWN = """
import os, sys
count = int(os.environ["LISTEN_FDS"])
moved = [os.dup2(int(number), 100 + n) for n, number in enumerate(sys.argv[1 : 1 + count])]
for n, number in enumerate(moved):
    os.dup2(number, 3 + n)
    os.close(number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1 + count], sys.argv[1 + count :])
"""


def handed_down(*sockets, names="wyoming"):
    """How to start a daemon with these sockets as systemd does: from descriptor 3 on, for this process alone."""
    descriptors = [each.fileno() for each in sockets]
    return {
        "through": [sys.executable, "-c", HAND_DOWN, *map(str, descriptors)],
        "descriptors": descriptors,
        "LISTEN_FDS": str(len(sockets)),
        **({"LISTEN_FDNAMES": names} if names else {}),
    }


@pytest.mark.parametrize("names", ["wyoming", ""], ids=["by name", "the only one"])
async def test_daemon_listens_on_socket_passed_by_systemd(names):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with daemon(fake="ToneBackend", **handed_down(listener, names=names)) as process:
            assert process.port == port
            assert process.wait_for("listening on .*, opened by systemd")
            assert (await speak(process, "Good evening.")).rate == RATE
            for worker in process.workers():
                assert not [each for each in worker.net_connections() if each.laddr.port == port]


async def test_activation_serves_client_that_connected_before_start(tmp_path):
    path = tmp_path / "wyoming.socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        listener.bind(str(path))
        listener.listen()
        client = AsyncUnixClient(str(path))
        await client.connect()
        await client.write_event(Synthesize("I was early.").event())
        with daemon("engine.fallback=false", fake="ToneBackend", **handed_down(listener)):
            assert (await hear(client, "audio-stop")).rate == RATE
            await client.disconnect()
        assert path.exists()  # it is systemd's


async def test_activation_serves_several_sockets_and_logs_unknown_names(tmp_path):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        with daemon(fake="ToneBackend", **handed_down(*sockets, names="wyoming:tea:wyoming")) as process:
            process.wait_for("a socket from systemd has the unknown name 'tea'")
            ports = {int(process.wait_for(r"listening on .*:(\d+), opened", count)[1]) for count in (1, 2)}
            assert ports == {each.getsockname()[1] for each in (sockets[0], sockets[2])}
            assert (await speak(process, "Good evening.")).rate == RATE


def test_take_sockets_ignores_sockets_of_another_process():
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "wyoming", "HOME": "/"}
    assert take_sockets(environment) == {}
    assert environment == {"HOME": "/"}


def test_activation_rejects_descriptor_that_does_not_listen():
    with socket.socket() as idle, started(fake="ToneBackend", **handed_down(idle)) as process:
        assert process.wait() == os.EX_UNAVAILABLE
        assert "the descriptor 'wyoming' from systemd is not a listening stream socket" in process.lines[-2]


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd is not installed")
async def test_systemd_socket_activate_starts_daemon_for_first_client(tmp_path):
    path = tmp_path / "wyoming.socket"
    command = ["systemd-socket-activate", "-l", str(path), "--fdname=wyoming"]
    with started("engine.fallback=false", fake="ToneBackend", through=[*command, *environment_words()]) as process:
        process.wait_for("Listening on")
        client = AsyncUnixClient(str(path))
        await client.connect()
        await client.write_event(Synthesize("Wake up.").event())
        assert (await hear(client, "audio-stop")).rate == RATE
        await client.disconnect()
        assert process.stop() == 0


def environment_words():
    """The tool starts its child with a clean environment but for these."""
    return [word for name, value in os.environ.items() for word in ("-E", f"{name}={value}")]
