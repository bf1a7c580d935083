import asyncio
import json
import time

import pytest

from qwentts_daemon.config.target_schema import MqttTarget, UrlTarget
from qwentts_daemon.errors import ConfigError, SinkError
from qwentts_daemon.sinks import Services, make_sink
from qwentts_daemon.sinks.mqtt import AHEAD_S, CHUNK_S
from tests.support.sinks import Facts, Tap, cut, pcm, tone, watched


class Broker:
    """Takes messages; `failing` lets those of one topic fail."""

    def __init__(self, failing=""):
        self.messages = asyncio.Queue()
        self.failing = failing

    async def publish(self, topic, payload):
        if self.failing and topic.endswith(self.failing):
            raise SinkError("there is no broker")
        self.messages.put_nowait((topic, payload))

    def sink(self):
        return make_sink("speaker", MqttTarget(type="mqtt"), Services(self.publish, "qwentts/den"))

    def all(self):
        return [self.messages.get_nowait() for _ in range(self.messages.qsize())]


@pytest.mark.parametrize("rate", [24_000, 22_050])
async def test_mqtt_sink_publishes_start_numbered_chunks_and_end(rate):
    broker, speech = Broker(), tone(rate // 4, rate)
    await broker.sink().play("a1", pcm(*cut(speech, 1_700), rate=rate), Facts())
    (start_topic, start), *chunks, (stop_topic, stop) = broker.all()
    assert start_topic == "qwentts/den/audio/a1/start"
    assert json.loads(start) == {"format": "s16le", "rate": rate, "width": 2, "channels": 1}
    assert [topic for topic, _ in chunks] == [f"qwentts/den/audio/a1/chunk/{n}" for n in range(3)]
    assert b"".join(payload for _, payload in chunks) == speech
    assert all(0.1 <= len(payload) / 2 / rate <= 0.2 for _, payload in chunks[:-1])
    assert stop_topic == "qwentts/den/audio/a1/stop"
    assert json.loads(stop) == {"chunks": 3, "duration_ms": 250, "complete": True}


async def test_mqtt_sink_publishes_at_playback_speed():
    began_s = time.monotonic()
    await Broker().sink().play("a1", watched(0.8, AHEAD_S + 2 * CHUNK_S), Facts())
    assert time.monotonic() - began_s >= 0.8


async def test_mqtt_sink_publishes_cancelled():
    broker, tap = Broker(), Tap()
    playing = asyncio.create_task(broker.sink().play("a1", tap.pcm(), Facts()))
    tap.pour(tone(2_400))
    await broker.messages.get()
    await broker.messages.get()
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    ((topic, payload),) = broker.all()
    assert (topic, json.loads(payload)["complete"]) == ("qwentts/den/audio/a1/stop", False)


@pytest.mark.parametrize("failing", ["start", "chunk/0", "stop"])
async def test_mqtt_sink_fails_without_broker(failing):
    with pytest.raises(SinkError, match="there is no broker"):
        await Broker(failing).sink().play("a1", pcm(tone(2_400)), Facts())


async def test_mqtt_sink_escapes_id_in_topic():
    broker = Broker()
    await broker.sink().play("../+/#/say/set\0", pcm(tone(10)), Facts())
    assert {topic.rpartition("/")[0].removesuffix("/chunk") for topic, _ in broker.all()} == {
        "qwentts/den/audio/_______say_set_"
    }


@pytest.mark.parametrize("target", [MqttTarget(type="mqtt"), UrlTarget(type="url")])
def test_make_sink_names_missing_dependency(target):
    with pytest.raises(ConfigError, match=r"announce\.targets\.speaker: "):
        make_sink("speaker", target, Services())
