"""Rhasspy's Hermes with a real broker: a site requests speech, receives a file and `sayFinished`."""

import io
import json
import wave

import pytest

from qwentts_daemon.mqtt.hermes import Hermes
from qwentts_daemon.mqtt.publisher import Publisher
from qwentts_daemon.sinks.hermes_site import PlayAcks
from tests.support.broker import broker, ear, needs_mosquitto
from tests.support.harness import daemon, speak, started

PLAY, PLAYED = "hermes/audioServer/kitchen/playBytes/", "hermes/audioServer/kitchen/playFinished"
SITE = "announce.targets={rhasspy: {type: hermes, site: kitchen, timeout: 0.5}}"
pytestmark = needs_mosquitto
TWICE = "announce.targets={a: {type: hermes}, b: {type: hermes}}"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rhasspy")
    with (
        broker(directory) as mosquitto,
        daemon(*mosquitto.settings, SITE, XDG_DATA_HOME=str(directory)) as speaking,
    ):
        speaking.wait_for("MQTT: connected")
        yield mosquitto, speaking


def files(heard):
    return {str(m.topic).removeprefix(PLAY): m.payload for m in heard.messages if str(m.topic).startswith(PLAY)}


async def ask(heard, **request):
    await heard.client.publish("hermes/tts/say", json.dumps(request), qos=1)


async def answer(heard):
    (payload,) = await heard.until(lambda: heard.on("hermes/tts/sayFinished"))
    return json.loads(payload)


async def test_say_plays_on_site_and_sends_say_finished(house):
    mosquitto, speaking = house
    async with ear(mosquitto.port) as heard:
        await ask(heard, text="Dinner is ready.", siteId="kitchen", id="r1", sessionId="s1", wakewordId="x")
        ((request, file),) = (await heard.until(lambda: files(heard))).items()
        with wave.open(io.BytesIO(file)) as sound:
            assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
            assert sound.readframes(sound.getnframes()) == (await speak(speaking, "Dinner is ready.")).pcm
        assert not heard.on("hermes/tts/sayFinished")
        await heard.client.publish(PLAYED, json.dumps({"id": request, "sessionId": "s1"}))
        assert await answer(heard) == {"id": "r1", "siteId": "kitchen", "sessionId": "s1"}
        await heard.event("finished", request)


async def test_say_finished_is_sent_without_play_finished(house):
    mosquitto, _ = house
    async with ear(mosquitto.port) as heard:
        await ask(heard, text="Hello.", siteId="kitchen")
        assert await answer(heard) == {"id": None, "siteId": "kitchen", "sessionId": None}
        assert "site kitchen did not send playFinished" in (await heard.event("failed"))["error"]


async def test_failed_say_sends_say_finished_at_once(house):
    mosquitto, speaking = house
    async with ear(mosquitto.port) as heard:
        await ask(heard, text="Hello.", siteId="kitchen", id="r2", lang="xx")
        assert (await answer(heard))["id"] == "r2"
        assert not files(heard)
        speaking.wait_for("hermes/tts/say: .*xx")


async def test_say_for_other_sites_or_invalid_is_ignored(house):
    mosquitto, speaking = house
    async with ear(mosquitto.port) as heard:
        for payload in ("no JSON", "[]", '{"text": ""}', '{"text": "Hi.", "siteId": 5}', "x" * 20_000, b"\xff"):
            await heard.client.publish("hermes/tts/say", payload, qos=1)
        await heard.client.publish(PLAYED, "{}", qos=1)
        await ask(heard, text="Hello.", siteId="attic")
        speaking.wait_for("the site 'attic' is not one of ours")
        speaking.wait_for("WARNING .*hermes/tts/say: ", 6)
        speaking.wait_for("WARNING .*playFinished: ")
        assert not heard.on("hermes/tts/sayFinished")


async def test_open_sessions_are_bounded():
    publisher = Publisher()
    hermes = Hermes({"kitchen": "rhasspy"}, publisher, PlayAcks())
    (_, session) = hermes.asked(b'{"text": "Hi.", "siteId": "kitchen"}')
    for number in range(1_000):
        hermes.begin(str(number), session)
    hermes.over("0")
    hermes.over("999")
    sent = []

    async def publish(letter):
        sent.append(letter.topic)

    await publisher.flush(publish)
    assert sent == ["hermes/tts/sayFinished"]


def test_two_targets_with_one_site_are_rejected(tmp_path):
    with broker(tmp_path) as mosquitto, started(*mosquitto.settings, TWICE) as refused:
        assert refused.wait() == 78
        assert any("announce.targets.b: the site default is already a" in line for line in refused.lines)
