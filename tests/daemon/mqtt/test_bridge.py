"""The MQTT bridge of a real daemon at a real broker: commands, events, and loss of the broker."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.broker import broker, ear, needs_mosquitto
from tests.support.harness import PATIENCE_S, ROOT, daemon, speak, started
from tests.support.sinks import fifo

pytestmark = needs_mosquitto


def recorder(path):
    """A target that keeps what it is given, of all announcements."""
    return f"announce.targets={{kitchen: {{type: command, command: [sh, -c, 'cat >> {path}']}}}}"


def settings(mosquitto, directory, *more):
    return [*mosquitto.settings, recorder(directory / "kitchen.pcm"), *more]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A broker, a daemon that can speak, and where it records."""
    directory = tmp_path_factory.mktemp("house")
    with (
        broker(directory) as mosquitto,
        daemon(*settings(mosquitto, directory), XDG_DATA_HOME=str(directory)) as speaking,
    ):
        speaking.wait_for("MQTT: connected")
        yield mosquitto, speaking, directory / "kitchen.pcm"


async def test_say_is_played_and_reported(house):
    mosquitto, speaking, path = house
    async with ear(mosquitto.port) as heard:
        path.unlink(missing_ok=True)
        await heard.say("Dinner is ready.")
        finished = await heard.event("finished")
        assert heard.kinds(finished["id"]) == ["queued", "started", "first_audio", "finished"]
        assert heard.events(finished["id"])[1]["targets"] == ["kitchen"]
        assert heard.events(finished["id"])[2]["ttfa_ms"] > 0
        speech = await speak(speaking, "Dinner is ready.")
        assert path.read_bytes() == speech.pcm
        assert finished["duration_ms"] == pytest.approx(1000 * speech.seconds, abs=1)
        assert "Dinner" not in "\n".join(line for line in speaking.lines if " INFO " in line)


async def test_say_json_selects_voice_and_volume(house):
    mosquitto, speaking, path = house
    async with ear(mosquitto.port) as heard:
        path.unlink(missing_ok=True)
        await heard.say("Das Essen ist fertig.", id="essen", voice="espeak-de", volume=0, targets="kitchen")
        await heard.event("finished", "essen")
        speaking.wait_for("announcement essen/.*voice espeak-de")
        assert set(path.read_bytes()) == {0}


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        ('{"text": "x", "id": "a1", "targets": ["kitchn"]}', "invalid-request", "did you mean kitchen?"),
        ('{"text": "x", "id": "a2", "voice": "espeak-dee"}', "voice-not-found", "did you mean espeak-de?"),
        ('{"text": "x", "id": "a3", "txt": "y"}', "invalid-request", "txt: unknown; known are text, id"),
        ('{"text": "x", "id": "a4", "speed": 2}', "invalid-request", "speed"),
        ('{"text": "x", "id": "a5", "instruct": "Slowly."}', "invalid-request", "does not follow instructions"),
        ('{"text": "x", "id": "a6", "file": "/etc/passwd"}', "invalid-request", "file: unknown"),
    ],
)
async def test_rejected_command_gets_failed_event(house, payload, code, reason):
    mosquitto, *_ = house
    async with ear(mosquitto.port) as heard:
        await heard.send("say/set", payload)
        event = await heard.event("failed", json.loads(payload)["id"])
        assert event["code"] == code
        assert reason in event["error"]


async def test_response_topic_receives_events(house):
    mosquitto, *_ = house
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic, properties.CorrelationData = "me/answers", b"\x00\x01"
    async with ear(mosquitto.port) as heard:
        await heard.send("say/set", '{"text": "Yes?", "id": "r1"}', properties=properties)
        await heard.until(lambda: [p for p in heard.on("me/answers") if b"finished" in p])
        answers = [message for message in heard.messages if str(message.topic) == "me/answers"]
        assert [json.loads(answer.payload)["event_type"] for answer in answers] == heard.kinds("r1")
        assert {answer.properties.CorrelationData for answer in answers} == {b"\x00\x01"}


@pytest.mark.parametrize(
    "topic", ["qwentts/test/say/set", "qwentts/other/clear", "qwentts/other/reload", "hermes/tts/say",
              "homeassistant/status", "homeassistant/switch/x/config"],
)  # fmt: skip
async def test_response_topic_that_would_be_a_command_is_ignored(house, topic):
    mosquitto, *_ = house
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = topic
    first, second = (f"{n}.{topic.replace('/', '.')}" for n in (1, 2))  # the daemon ignores an id that it knows
    async with ear(mosquitto.port) as heard:
        before = len(heard.on(topic))
        await heard.send("say/set", json.dumps({"text": "Yes?", "id": first}), properties=properties)
        await heard.event("finished", first)
        await heard.say("Next.", id=second)
        await heard.event("finished", second)
        own = 2 if topic == "qwentts/test/say/set" else 0
        assert len(heard.on(topic)) == before + own


async def test_response_topic_with_too_many_levels_is_ignored(house):
    mosquitto, speaking, _ = house
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "a/" * 300
    try:
        async with ear(mosquitto.port) as heard:
            await heard.send("say/set", '{"text": "Yes?", "id": "r4"}', properties=properties)
            await heard.event("finished", "r4")
            await heard.say("Next.", id="r5")
            await heard.event("finished", "r5")
            assert heard.kinds("r4") == ["queued", "started", "first_audio", "finished"]
            assert not [line for line in speaking.lines if "protocol error" in line]
    except* aiomqtt.MqttError:
        pytest.skip("this mosquitto disconnects clients that request such a response topic")


async def test_repeated_id_plays_once_and_retained_command_never(house):
    mosquitto, speaking, path = house
    async with ear(mosquitto.port) as heard:
        path.unlink(missing_ok=True)
        for _ in range(3):
            await heard.say("Once.", id="once")
        await heard.say("After.", id="after")
        await heard.event("finished", "after")
        assert heard.kinds("once").count("queued") == 1
        once, after = (await speak(speaking, "Once.")).pcm, (await speak(speaking, "After.")).pcm
        assert path.read_bytes() == once + after


async def test_discovery_entities_accept_their_commands(house):
    mosquitto, *_ = house
    async with ear(mosquitto.port) as heard:
        device = json.loads((await heard.until(lambda: heard.on("homeassistant/device/qwentts_test/config")))[0])
        parts = device["components"]
        await heard.until(lambda: heard.on("qwentts/test/status") == [b"online"])
        assert await heard.shown("settings", volume=100, voice="default", language="auto", style="default")
        for name, value in (("voice", "espeak-de"), ("language", "de"), ("style", "whisper")):
            assert value in parts[name]["options"]
            await heard.client.publish(parts[name]["command_topic"], value, qos=1)
            await heard.shown("settings", **{name: value})
        await heard.client.publish(parts["volume"]["command_topic"], "40", qos=1)
        await heard.shown("settings", volume=40)
        await heard.client.publish(parts["announce"]["command_topic"], '{"text": "Hallo.", "id": "n1"}', qos=1)
        await heard.event("finished", "n1")
        house[1].wait_for(r"announcement n1/.*voice espeak-de\b")
        for name, value in (("voice", "default"), ("language", "auto"), ("style", "default"), ("volume", "100")):
            await heard.client.publish(parts[name]["command_topic"], value, qos=1)
        await heard.shown("state", model_loaded=True, state="idle", queue_depth=0)


async def test_unknown_preference_is_rejected(house):
    mosquitto, *_ = house
    async with ear(mosquitto.port) as heard:
        for number, (name, value) in enumerate((("voice", "nobody"), ("volume", "loud"), ("volume", "101")), 1):
            await heard.send(f"{name}/set", value)
            assert (await heard.event("failed", count=number))["error"].startswith(f"{name}: ")


async def test_birth_message_republishes_state(house):
    mosquitto, *_ = house
    async with ear(mosquitto.port) as heard:
        await heard.until(lambda: heard.on("homeassistant/device/qwentts_test/config"))
        await heard.client.publish("homeassistant/status", "online", qos=1)
        await heard.until(lambda: len(heard.on("homeassistant/device/qwentts_test/config")) == 2)
        await heard.until(lambda: heard.on("qwentts/test/status") == [b"online", b"online"])


# --- connection to the broker ---------------------------------------------------------------------------------

LONG = "A long story, so that the broker can go away in the middle of it and come back before its end. " * 3


async def test_broker_restart_during_playback_is_survived(tmp_path):
    path, options = tmp_path / "fifo", {"XDG_DATA_HOME": str(tmp_path)}
    with broker(tmp_path) as mosquitto, daemon(*mosquitto.settings, recorder(path), **options) as speaking:
        speaking.wait_for("MQTT: connected")
        expected = (await speak(speaking, LONG)).pcm, (await speak(speaking, "And another.")).pcm
        async with fifo(path) as loudspeaker:
            with held_open(path):
                async with ear(mosquitto.port) as heard:
                    await heard.say(LONG, id="long")
                    await heard.event("first_audio", "long")
                    mosquitto.stop()
                speaking.wait_for("Connection refused; it is tried again")
                mosquitto.start()
                async with ear(mosquitto.port) as heard:
                    await heard.say("And another.", id="another")
                    await heard.until(lambda: heard.on("qwentts/test/status")[-1:] == [b"online"])
                    assert heard.on("homeassistant/device/qwentts_test/config")
                    for speech in expected:
                        assert await loudspeaker.readexactly(len(speech)) == speech
                    await heard.event("finished", "long")
                    await heard.event("finished", "another")
                    assert heard.kinds("another").count("started") == 1
        troubles = [line for line in speaking.lines if "it is tried again" in line and "DEBUG" not in line]
        assert len(troubles) == 2, troubles  # lost, and refused


@contextlib.contextmanager
def held_open(path):
    """So that a FIFO does not end with the first who writes to it."""
    end = os.open(path, os.O_WRONLY)
    try:
        yield
    finally:
        os.close(end)


def test_session_takeover_is_logged_once(tmp_path):
    with broker(tmp_path) as mosquitto:
        first, second = [started(*mosquitto.settings, XDG_DATA_HOME=str(tmp_path)) for _ in range(2)]
        with first as speaking, second:
            speaking.wait_for("another client (has come with|may have) the name qwentts-test", count=4)
            speaking.wait_for("MQTT: connected", count=4)
            assert len([line for line in speaking.lines if " INFO " in line and "MQTT: connected" in line]) <= 2


async def test_queued_commands_play_once_after_reconnect(tmp_path):
    with broker(tmp_path) as mosquitto:
        parts = settings(mosquitto, tmp_path)
        with daemon(*parts, XDG_DATA_HOME=str(tmp_path)) as speaking:
            speaking.wait_for("MQTT: connected")
        async with ear(mosquitto.port) as heard:
            assert await heard.until(lambda: heard.on("qwentts/test/status")) == [b"offline"]
            for number in range(3):
                await heard.say("While it was away.", id=f"away{number}")
            mosquitto.stop(signal.SIGTERM)
            mosquitto.start()
        async with ear(mosquitto.port) as heard:
            with daemon(*parts, XDG_DATA_HOME=str(tmp_path)) as speaking:
                await heard.event("finished", "away2")
                for number in range(3):
                    assert heard.kinds(f"away{number}").count("started") == 1


async def test_retained_commands_are_ignored(tmp_path):
    with broker(tmp_path) as mosquitto:
        async with ear(mosquitto.port) as heard:
            await heard.send("say/set", '{"text": "Again and again.", "id": "kept"}', retain=True)
            with daemon(*settings(mosquitto, tmp_path), XDG_DATA_HOME=str(tmp_path)) as speaking:
                speaking.wait_for("say/set: ignored: a retained message is not a command")
                await heard.say("Fresh.", id="fresh")
                await heard.event("finished", "fresh")
                assert heard.kinds("kept") == []


@pytest.mark.parametrize("transport", ["3.1.1", "unix"])
async def test_mqtt_311_and_unix_socket_work(tmp_path, transport):
    path = tmp_path / "mqtt.sock"
    listener = f"0 {path}" if transport == "unix" else None
    with broker(tmp_path, listener=listener) as mosquitto:
        host = [f"mqtt.host=unix://{path}"] if transport == "unix" else ["mqtt.protocol='3.1.1'"]
        with daemon(*settings(mosquitto, tmp_path, *host), XDG_DATA_HOME=str(tmp_path)) as speaking:
            speaking.wait_for("MQTT: connected")
            options = {"transport": "unix"} if transport == "unix" else {"protocol": aiomqtt.ProtocolVersion.V311}
            async with ear(
                mosquitto.port, hostname=str(path) if transport == "unix" else "127.0.0.1", **options
            ) as heard:
                await heard.say("Hello.", id="hello")
                await heard.event("finished", "hello")


async def test_disabling_discovery_removes_device(tmp_path):
    topic = "homeassistant/device/qwentts_test/config"
    with broker(tmp_path) as mosquitto:
        async with ear(mosquitto.port) as heard:
            with daemon(*settings(mosquitto, tmp_path), XDG_DATA_HOME=str(tmp_path)):
                await heard.until(lambda: heard.on(topic))
            with daemon(*settings(mosquitto, tmp_path, "mqtt.discovery=false"), XDG_DATA_HOME=str(tmp_path)):
                await heard.until(lambda: heard.on(topic)[-1:] == [b""])
        async with ear(mosquitto.port) as later:
            assert await later.until(lambda: later.on("qwentts/test/status")) == [b"offline"]
            assert later.on(topic) == []


async def test_preferences_survive_restart(tmp_path):
    with broker(tmp_path) as mosquitto:
        async with ear(mosquitto.port) as heard:
            parts = settings(mosquitto, tmp_path)
            with daemon(*parts, XDG_DATA_HOME=str(tmp_path)):
                await heard.until(lambda: heard.on("qwentts/test/status"))
                await heard.send("volume/set", "30")
                await heard.shown("settings", volume=30)
            heard.messages.clear()
            with daemon(*parts, XDG_DATA_HOME=str(tmp_path)):
                await heard.shown("settings", volume=30)


async def test_state_shows_engine(tmp_path):
    with broker(tmp_path) as mosquitto:
        async with ear(mosquitto.port) as heard:
            options = {"XDG_DATA_HOME": str(tmp_path), "fake": "OnGpu"}
            with daemon(*mosquitto.settings, **options) as speaking:
                await heard.shown("state", gpu_memory_mb=3200, model_loaded=True, state="idle")
                await speak(speaking, "A reply counts as well.")
                assert (await heard.until(lambda: figures(heard)))["ttfa_ms"] > 0
                speaking.workers()[0].kill()
                speaking.wait_for("ended; a new one")
            assert json.loads(heard.on("qwentts/test/state")[0])["state"] == "loading"


async def test_state_is_idle_after_unload(tmp_path):
    with broker(tmp_path) as mosquitto:
        async with ear(mosquitto.port) as heard:
            with daemon(*mosquitto.settings, XDG_DATA_HOME=str(tmp_path), fake="ToneBackend"):
                await heard.shown("state", model_loaded=True, state="idle")
                await heard.send("unload")
                await heard.shown("state", model_loaded=False, state="idle")


async def test_state_is_idle_while_engine_is_inactive(tmp_path):
    resting = ["engine.fallback=false", "engine.keep_alive=0.05", "http.enabled=true", "http.port=0"]
    with broker(tmp_path) as mosquitto:
        async with ear(mosquitto.port) as heard:
            parts = [*mosquitto.settings, *resting, f"http.cache_dir={tmp_path}"]
            with daemon(*parts, fake="ToneBackend", XDG_DATA_HOME=str(tmp_path)) as speaking:
                assert (await speak(speaking, "Good night.")).seconds
                speaking.wait_for("has given its GPU back")
                await heard.shown("state", model_loaded=False, state="idle")
                port = speaking.wait_for(r"listening on http://[^ ]+:(\d+),")[1]
                address = f"http://127.0.0.1:{port}/readyz"
                with await asyncio.to_thread(urllib.request.urlopen, address) as answer:
                    assert answer.status == 200


async def test_bridge_keeps_running_without_any_voice(tmp_path):
    (tmp_path / "voices" / "anna").mkdir(parents=True)
    alone = [f"voices.dir={tmp_path}/voices", "engine.fallback=false"]
    with broker(tmp_path) as mosquitto:
        async with ear(mosquitto.port) as heard:
            with daemon(*mosquitto.settings, *alone, fake="OnlyFolder", XDG_DATA_HOME=str(tmp_path)) as speaking:
                assert (await speak(speaking, "Here I am.")).seconds
                (tmp_path / "voices" / "anna").rmdir()
                assert (await speak(speaking, "I am gone.")).code == "voice-not-found"
                await heard.send("volume/set", "30")  # needs the catalog, as the entities does
                await heard.shown("settings", volume=30)
                (tmp_path / "voices" / "bert").mkdir()
                topic = "homeassistant/device/qwentts_test/config"
                await heard.until(lambda: any(b'"bert"' in shown for shown in heard.on(topic)))
                assert (await speak(speaking, "And I have come.")).seconds


def figures(heard):
    """The first state that has them."""
    states = map(json.loads, heard.on("qwentts/test/state"))
    return next((state for state in states if state["rtf"] is not None), None)


async def test_mqtt_and_url_targets_deliver_audio(tmp_path):
    targets = "announce.targets={esp: {type: mqtt}, players: {type: url}}"
    with broker(tmp_path) as mosquitto:
        parts = [*mosquitto.settings, targets, "http.port=0", "http.host=127.0.0.1"]
        options = {"XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
        with daemon(*parts, **options) as speaking:
            speaking.wait_for("MQTT: connected")
            async with ear(mosquitto.port) as heard:
                await heard.say("Hello.", id="hello")
                await heard.event("first_audio", "hello", count=2)
                urls = {event["target"]: event.get("url") for event in heard.events("hello") if "target" in event}
                assert urls["esp"] is None
                fetched = await asyncio.to_thread(fetch, urls["players"])
                await heard.event("finished", "hello")
                speech = (await speak(speaking, "Hello.")).pcm
                chunks = [message for message in heard.messages if "/hello/chunk/" in str(message.topic)]
                assert b"".join(chunk.payload for chunk in chunks) == speech == fetched[44:]


def fetch(url):
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return answer.read()


async def test_stop_drains_running_announcement(tmp_path):
    with broker(tmp_path) as mosquitto:
        options = {"XDG_DATA_HOME": str(tmp_path)}
        with started(*mosquitto.settings, recorder(tmp_path / "fifo"), **options) as speaking:
            speaking.wait_for("is ready")
            speaking.wait_for("MQTT: connected")
            async with ear(mosquitto.port) as heard, fifo(tmp_path / "fifo") as loudspeaker:
                await heard.say(LONG, id="last")
                await heard.say("Never.", id="never")
                await heard.event("first_audio", "last")
                speaking.process.send_signal(signal.SIGTERM)
                assert (await heard.event("cancelled", "never"))["reason"] == "shutting-down"
                assert heard.kinds("last")[-1] == "first_audio"
                await loudspeaker.read()
                await heard.event("finished", "last")
                await heard.until(lambda: heard.on("qwentts/test/status")[-1:] == [b"offline"])
            assert speaking.wait() == 0


def test_mqtt_is_not_imported_without_host():
    code = "import sys, qwentts_daemon.cli.app, qwentts_daemon.daemon; print([m for m in sys.modules if 'mqtt' in m])"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "['qwentts_daemon.config.mqtt_schema']"
