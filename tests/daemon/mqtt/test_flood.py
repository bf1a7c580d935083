"""A thousand announcements at once: bounded, answered, and without effect on Wyoming clients."""

from tests.support.broker import broker, ear, needs_mosquitto
from tests.support.harness import daemon, speak


@needs_mosquitto
async def test_thousand_announcements_in_a_second_are_answered(tmp_path):
    target = f"announce.targets={{kitchen: {{type: command, command: [sh, -c, 'cat > {tmp_path}/out']}}}}"
    with broker(tmp_path) as mosquitto:
        parts = [*mosquitto.settings, target, "announce.max_waiting=20"]
        with daemon(*parts, XDG_DATA_HOME=str(tmp_path), debug=False) as speaking:
            speaking.wait_for("MQTT: connected")
            async with ear(mosquitto.port, max_inflight_messages=1000) as heard:
                await heard.say("Before.", id="before")
                await heard.event("finished", "before")
                before = speaking.rss()
                for number in range(1_000):
                    await heard.client.publish(
                        "qwentts/test/say/set",
                        f'{{"text": "Number {number}, and a few words more.", "id": "n{number}"}}',
                    )
                speech = await speak(speaking, "I am still here.")
                await heard.say("The last.", id="last", priority="high")
                await heard.until(lambda: {"finished", "failed"} & set(heard.kinds("last")))
                answered = await heard.until(lambda: (kinds := ends(heard)) and len(kinds) == 1_000 and kinds)
                assert set(answered.values()) == {"finished", "failed"}
                refused = [event for event in heard.events() if event["event_type"] == "failed"]
                assert {event["code"] for event in refused} == {"queue-full"}
                assert speech.seconds > 0.5
                assert speaking.rss() - before < 32 << 20


def ends(heard):
    """How each of the flood ended, by id."""
    events = (event for event in heard.events() if event.get("id", "").startswith("n"))
    return {event["id"]: event["event_type"] for event in events if event["event_type"] in ("finished", "failed")}
