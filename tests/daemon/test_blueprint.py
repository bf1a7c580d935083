"""The blueprint for Home Assistant: whole, and right about which events it acts on."""

from pathlib import Path

import jinja2
import pytest
import yaml

BLUEPRINT = Path(__file__).parents[2] / "qwentts_daemon" / "homeassistant" / "announce_on_media_player.yaml"


class Input(str):
    """The value of `!input NAME`."""


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!input", lambda loader, node: Input(loader.construct_scalar(node)))


def blueprint():
    return yaml.load(BLUEPRINT.read_text(), Loader)


def inputs(value):
    if isinstance(value, Input):
        yield str(value)
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inputs(inside)


def says(template, payload, target_name=""):
    """Return a template rendered for a message, as Home Assistant renders it."""
    trigger = {"payload_json": payload} if payload is not None else {}
    return jinja2.Template(template).render(trigger=trigger, target_name=target_name).strip()


def test_blueprint_declares_and_uses_every_input():
    document = blueprint()
    assert set(inputs(document)) == set(document["blueprint"]["input"])


@pytest.mark.parametrize(
    ("payload", "acts"),
    [
        ({"event_type": "first_audio", "url": "http://host/a.wav"}, "True"),
        ({"event_type": "cancelled", "url": "http://host/a.wav"}, "True"),
        ({"event_type": "finished", "url": "http://host/a.wav"}, "False"),
        ({"event_type": "first_audio"}, "False"),
        (None, "False"),
    ],
)
def test_blueprint_acts_on_events_with_a_url(payload, acts):
    (condition,) = blueprint()["conditions"]
    assert says(condition["value_template"], payload) == acts


@pytest.mark.parametrize(("target", "acts"), [("players", "True"), ("hall", "False"), (None, "True")])
def test_blueprint_acts_on_its_own_target_only(target, acts):
    (condition,) = blueprint()["conditions"]
    payload = {"event_type": "cancelled" if target is None else "first_audio", "url": "http://host/a.wav"}
    assert says(condition["value_template"], payload | ({"target": target} if target else {}), "players") == acts


def test_blueprint_plays_url_and_stops_on_cancelled():
    ((choice,),) = (action["choose"] for action in blueprint()["actions"])
    payload = {"event_type": "first_audio", "url": "http://host/a.wav"}
    assert says(choice["conditions"], payload) == "True"
    assert says(choice["conditions"], payload | {"event_type": "cancelled"}) == "False"
    assert says(choice["sequence"][0]["data"]["media_content_id"], payload) == "http://host/a.wav"
