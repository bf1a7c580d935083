"""Payloads as Home Assistant's templates and people write them, and what is refused by name."""

import json

import pytest

from qwentts_daemon.mqtt.messages import CommandError, Say, Topics, parse

TOPICS = Topics("qwentts/box")


def said(payload: object) -> Say:
    command = parse(TOPICS, "qwentts/box/say/set", json.dumps(payload).encode())
    assert isinstance(command, Say)
    return command


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"volume": "50.0"}, {"volume": 50.0}),
        ({"volume": " 50 "}, {"volume": 50.0}),
        ({"volume": 50}, {"volume": 50.0}),
        ({"chime": "off"}, {"chime": False}),
        ({"chime": "True"}, {"chime": True}),
        ({"expires_s": "60"}, {"expires_s": 60.0}),
        ({"priority": "High "}, {"priority": "high"}),
        ({"voice": "", "style": "", "language": "", "volume": "", "chime": "", "id": "", "priority": ""}, {}),
        ({"targets": ""}, {}),
        ({"text": 21}, {"text": "21"}),
        ({"text": 21.5}, {"text": "21.5"}),
    ],
)
def test_say_understands_values_that_arrive_as_strings(given, expected):
    assert said({"text": "Dinner"} | given) == Say(**{"text": "Dinner"} | expected)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"volume": "loud"}, "volume: "), ({"volume": {"a": 1}}, "volume: "), ({"volume": "nan"}, "volume: "),
        ({"volume": "150"}, "volume: "), ({"volume": True}, "volume: "),
        ({"chime": "maybe"}, "chime: "), ({"chime": 2}, "chime: "),
        ({"expires_s": "-1"}, "expires_s: "), ({"priority": "urgent"}, "priority: "), ({"text": True}, "text: "),
        ({"text": ""}, "text: "), ({"text": None}, "text: "), ({"voice": 5}, "voice: "),
        ({"voise": ""}, "voise: unknown"),
    ],
)  # fmt: skip
def test_say_rejects_values_without_a_clear_meaning_by_name(given, named):
    with pytest.raises(CommandError, match=named):
        said({"text": "Dinner"} | given)
