"""The discovery message is what Home Assistant expects (checked by hand against its own schemas, see README)."""

import json

import pytest

from qwentts_daemon.mqtt.discovery import BUTTONS, EVENT_TYPES, STATES, device_message, discovery_topic
from qwentts_daemon.mqtt.messages import Topics

TOPICS = Topics("qwentts/attic")
OPTIONS = {"voice": ["default", "ryan"], "language": ["auto", "de-DE"], "style": ["default", "whisper"]}


@pytest.fixture
def message():
    return json.loads(json.dumps(device_message("attic", TOPICS, tuple(BUTTONS), OPTIONS)))


def test_one_message_names_every_entity(message):
    assert discovery_topic("homeassistant", "attic") == "homeassistant/device/qwentts_attic/config"
    platforms = {}
    for key, entity in message["components"].items():
        platforms.setdefault(entity["platform"], []).append(key)
    assert platforms == {
        "notify": ["announce"],
        "event": ["event"],
        "button": ["stop", "clear", "reload", "unload"],
        "select": ["voice", "language", "style"],
        "number": ["volume"],
        "sensor": ["state", "queue_depth", "ttfa", "rtf", "gpu_memory"],
        "binary_sensor": ["model_loaded"],
    }
    ids = [entity["unique_id"] for entity in message["components"].values()]
    assert len(set(ids)) == len(ids)


def test_all_of_it_becomes_unavailable_with_the_daemon(message):
    assert message["availability_topic"] == "qwentts/attic/status"
    assert message["device"]["identifiers"] == ["qwentts_attic"]


def test_every_command_topic_is_one_that_is_listened_to(message):
    topics = {entity["command_topic"] for entity in message["components"].values() if "command_topic" in entity}
    assert topics == set(TOPICS.commands(tuple(BUTTONS)))


def test_choices_and_words(message):
    parts = message["components"]
    assert parts["voice"]["options"] == ["default", "ryan"]
    assert parts["event"]["event_types"] == list(EVENT_TYPES)
    assert parts["state"]["options"] == list(STATES)


def test_buttons_that_do_nothing_are_not_shown():
    parts = device_message("attic", TOPICS, ("stop", "clear"), OPTIONS)["components"]
    assert not {"reload", "unload"} & set(parts)
