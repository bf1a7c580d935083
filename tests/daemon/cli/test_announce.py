"""`qwentts-daemon announce` as a person uses it."""

import subprocess
import sys

import pytest

from tests.support.broker import broker, free_port, needs_mosquitto
from tests.support.harness import PATIENCE_S, ROOT, daemon


def announce(*words, settings=()):
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "qwentts_daemon", "announce", *words, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    directory = tmp_path_factory.mktemp("house")
    with broker(directory) as mosquitto:
        wav = f"announce.targets={{file: {{type: command, command: [sh, -c, 'cat > {directory}/out.pcm']}}}}"
        with daemon(*mosquitto.settings, wav, XDG_DATA_HOME=str(directory)) as speaking:
            speaking.wait_for("MQTT: connected")
            yield mosquitto, directory / "out.pcm"


@needs_mosquitto
def test_announce_prints_events_until_finished(house):
    mosquitto, path = house
    done = announce(
        "Dinner is ready.", "-t", "file", "--volume", "50", "--priority", "high", settings=mosquitto.settings
    )
    assert (done.returncode, done.stderr) == (0, "")
    kinds = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert kinds == ["queued", "started", "first_audio", "finished"]
    assert path.stat().st_size > 10_000


@needs_mosquitto
def test_announce_prints_reason_of_rejection(house):
    mosquitto, _ = house
    done = announce("Hi.", "--voice", "unknown", settings=mosquitto.settings)
    assert done.returncode == 1
    assert "no voice 'unknown'" in done.stderr


@needs_mosquitto
def test_announce_no_follow_returns_at_once(house):
    mosquitto, _ = house
    done = announce("Hi.", "--no-follow", settings=mosquitto.settings)
    assert (done.returncode, done.stdout) == (0, "")


@needs_mosquitto
def test_announce_without_daemon_exits_69(house):
    mosquitto, _ = house
    done = announce("Hi.", settings=[*mosquitto.settings, "mqtt.node_id=other"])
    assert done.returncode == 69
    assert "has not received a status of a daemon at qwentts/other" in done.stderr


def test_announce_without_broker_exits_69():
    done = announce("Hi.", settings=["mqtt.host=127.0.0.1", f"mqtt.port={free_port()}"])
    assert done.returncode == 69
    assert "Connection refused" in done.stderr


def test_announce_without_configured_broker_exits_78():
    done = announce("Hi.")
    assert done.returncode == 78
    assert "mqtt.host" in done.stderr
