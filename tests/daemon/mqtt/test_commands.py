"""Whatever arrives gets one answer, and does nothing else when it is wrong."""

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwentts_daemon.mqtt.commands import DaemonControls
from qwentts_daemon.mqtt.messages import MAX_PAYLOAD_BYTES, CommandError, Say, Topics, parse
from tests.support.announcements import Loudspeaker, house, spoken

TOPICS = Topics("qwentts/test")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=10), inside, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from([*Say.model_fields, "speed", "file", "url"])
PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(str.encode),
    st.dictionaries(KEYS, JSON, max_size=6).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(KEYS, JSON, max_size=6).map(lambda value: json.dumps({"text": "x", **value}).encode()[:-1]),
    st.sampled_from([b"[" * 9000, b'{"text":' * 2000, b'{"text":"\\ud800"}', b"x" * (MAX_PAYLOAD_BYTES + 1), b"\xff"]),
)
NAMES = st.sampled_from(["say/set", "stop", "voice/set", "language/set", "style/set", "volume/set", "unload", "x", "/"])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, payload=PAYLOADS)
async def test_handler_executes_or_answers_any_payload_once(tmp_path_factory, caplog, name, payload):
    caplog.clear()
    caplog.set_level(logging.INFO)
    async with house(tmp_path_factory.getbasetemp(), {"kitchen": Loudspeaker()}) as made:
        preferences = made.preferences.current
        made.send(name, payload)
        kinds = made.kinds()
        if kinds == ["failed"]:
            assert made.announcer.depth == 0
            assert made.preferences.current == preferences
            assert made.events()[0]["error"]
            assert len(made.letters[0].payload) < 2_000
        elif name == "say/set":
            assert kinds == ["queued"]
        else:
            assert kinds == []
        assert not caplog.records


@given(payload=PAYLOADS)
def test_parse_raises_only_command_error(payload):
    try:
        parse(TOPICS, TOPICS.say, payload)
    except CommandError as error:
        assert str(error)


@pytest.mark.parametrize("text", ["Dinner is ready.", "{curly", "  padded \n", "Grüße 🎉", "[1, 2]", "5", '"quoted"'])
def test_parse_takes_payload_without_brace_as_text(text):
    if text.startswith("{"):
        with pytest.raises(CommandError):
            parse(TOPICS, TOPICS.say, text.encode())
    else:
        assert parse(TOPICS, TOPICS.say, text.encode()) == Say(text=text.strip())


def test_parse_accepts_single_target():
    assert parse(TOPICS, TOPICS.say, b'{"text": "a", "targets": "hall"}').targets == ["hall"]


def test_parse_strips_byte_order_mark():
    assert parse(TOPICS, TOPICS.say, b'\xef\xbb\xbf{"text": "a"}') == Say(text="a")


def test_parse_error_keeps_id():
    with pytest.raises(CommandError) as refused:
        parse(TOPICS, TOPICS.say, b'{"id": "a1", "volume": 200}')
    assert refused.value.id == "a1"


async def test_handler_ignores_retained_and_duplicate_messages(tmp_path, caplog):
    async with house(tmp_path) as made:
        made.send("say/set", b"Retained.", retained=True)
        made.send("say/set", b"Once.", number=7)
        made.send("say/set", b"Once.", number=7, repeated=True)
        made.send("say/set", b"Once.", number=8)
        made.send("say/set", b"Unheard before.", number=9, repeated=True)
        assert made.kinds() == ["queued"] * 3
        await made.when(lambda: made.kinds().count("finished") == 3)
        played = list(made.loudspeakers["kitchen"].played.values())
        assert played == [spoken("Once."), spoken("Once."), spoken("Unheard before.")]


async def test_buttons_run_available_controls(tmp_path):
    pressed = []
    async with house(tmp_path, controls=DaemonControls(reload=lambda: pressed.append("reload"))) as made:
        made.send("reload")
        made.send("unload")
        assert pressed == ["reload"]
        assert made.events()[0]["error"] == "there is no 'unload' here"
        assert made.entities.subscriptions == [
            *(f"qwentts/test/{name}" for name in ("say/set", "stop", "clear", "reload")),
            *(f"qwentts/test/{name}/set" for name in ("voice", "language", "style", "volume")),
            "homeassistant/status",
        ]


async def test_say_uses_preferences(tmp_path):
    async with house(tmp_path) as made:
        made.send("voice/set", b"vivian")
        made.send("style/set", b"soft")
        made.send("language/set", b"de-DE")  # which vivian does not speak
        for name, wish in (("preferred", {}), ("ryan", {"voice": "ryan"}), ("plain", {"style": "soft"})):
            made.say("a", name, **wish)
            await made.over(name)
        asked = [(request.voice, request.language, request.style) for request, _ in made.engine.requests]
        assert asked == [("vivian", None, "soft"), ("ryan", "de-DE", None), ("vivian", None, "soft")]


async def test_say_passes_instruct_to_voice(tmp_path):
    async with house(tmp_path) as made:
        made.say("a", "a", voice="ryan", instruct="Very slowly.")
        made.say("b", "b", voice="vivian", instruct="Very slowly.")
        assert (await made.over("b"))["error"] == "instruct: the voice vivian does not follow instructions"
        await made.over("a")
        assert made.engine.requests[0][0].instruct == "Very slowly."


async def test_say_without_targets_is_rejected(tmp_path):
    async with house(tmp_path, {}) as made:
        made.say("a", "a")
        assert made.events("a")[0]["error"] == "no target is configured (announce.targets)"


async def test_rejections_without_id_are_summarized(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("qwentts_daemon.mqtt.commands.OVERFLOW_INTERVAL_S", 0.01)
    async with house(tmp_path, max_waiting=1) as made:
        for name in ("first", *"abc"):
            made.send("say/set", f"This is {name}.".encode())
        made.say("With an id.", "mine")
        await made.when(lambda: made.kinds().count("failed") == 3)
        refused = [event for event in made.events() if event["event_type"] == "failed"]
        assert [event.get("id") for event in refused] == [None, "mine", None]
        assert [event["error"].rpartition("; ")[2] for event in refused if "id" not in event] == [
            "1 refused",
            "2 refused",
        ]
        assert [record.args[0] for record in caplog.records if "are refused" in record.message] == [1, 2]


async def test_say_uses_default_targets(tmp_path):
    speakers = {"kitchen": Loudspeaker(), "hall": Loudspeaker()}
    async with house(tmp_path, speakers, default_targets=("hall",)) as made:
        made.say("a", "a")
        await made.over("a")
        assert (list(speakers["kitchen"].played), list(speakers["hall"].played)) == ([], ["a"])
