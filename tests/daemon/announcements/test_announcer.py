"""Announcements: which target plays what, in which order, and which events are reported."""

import asyncio
import datetime
import math

import pytest

from qwentts_daemon.workers.queue import Priority
from tests.support.announcements import Loudspeaker, house, spoken


@pytest.fixture
def loudspeakers():
    return {"kitchen": Loudspeaker(), "hall": Loudspeaker()}


async def test_say_synthesizes_once_for_all_targets_at_announcement_priority(tmp_path, loudspeakers):
    async with house(tmp_path, loudspeakers) as made:
        made.say("Dinner.", "a")
        finished = await made.over("a")
        assert made.kinds("a") == ["queued", "started", "first_audio", "first_audio", "finished"]
        assert finished["url"] == made.events("a")[2]["url"] == "http://here/a.wav"
        assert {name: each.played for name, each in loudspeakers.items()} == {
            "kitchen": {"a": spoken("Dinner.")}, "hall": {"a": spoken("Dinner.")},
        }  # fmt: skip
        assert [turn.priority for _, turn in made.engine.requests] == [Priority.ANNOUNCEMENT]


async def test_slow_target_does_not_delay_others_and_plays_in_order(tmp_path, loudspeakers):
    loudspeakers["kitchen"].may_play.clear()
    async with house(tmp_path, loudspeakers) as made:
        for name in ("a", "b", "c"):
            made.say(f"This is {name}.", name)
        made.say("Only in the kitchen.", "d", targets="kitchen")
        await made.when(lambda: "c" in loudspeakers["hall"].played)
        assert loudspeakers["kitchen"].played == {}
        loudspeakers["kitchen"].may_play.set()
        for name in ("a", "b", "c", "d"):
            assert (await made.over(name))["event_type"] == "finished"
        assert loudspeakers["kitchen"].begun == ["a", "b", "c", "d"]
        assert loudspeakers["kitchen"].played["c"] == spoken("This is c.")


async def test_busy_target_reports_start_when_it_plays(tmp_path, loudspeakers):
    loudspeakers["kitchen"].may_play.clear()
    async with house(tmp_path, loudspeakers) as made:
        made.say("Slow.", "a", targets=["kitchen"])
        made.say("For all.", "b")
        assert (await made.until("b", "first_audio"))["target"] == "hall"
        loudspeakers["kitchen"].may_play.set()
        await made.over("b")
        heard = [(each["target"], each["url"]) for each in made.events("b") if each["event_type"] == "first_audio"]
        assert heard == [("hall", "http://here/b.wav"), ("kitchen", "http://here/b.wav")]


async def test_synthesis_slot_is_released_while_target_plays(tmp_path, loudspeakers):
    loudspeakers["kitchen"].may_play.clear()
    async with house(tmp_path, loudspeakers) as made:
        made.say("Slow.", "a", targets=["kitchen"])
        await made.until("a", "first_audio")
        made.say("Quick.", "b", targets=["hall"])
        await made.over("b")
        assert made.engine.running == 0
        loudspeakers["kitchen"].may_play.set()
        await made.over("a")


async def test_failed_target_does_not_affect_others(tmp_path, loudspeakers):
    loudspeakers["hall"].broken = True
    async with house(tmp_path, loudspeakers) as made:
        made.say("Dinner.", "a")
        assert (await made.over("a"))["not_played"] == {"hall": "hall: no such device"}
        assert made.kinds("a")[-1] == "finished"
        assert loudspeakers["kitchen"].played == {"a": spoken("Dinner.")}
        made.say("Dinner.", "b", targets="hall")
        failed = await made.over("b")
        assert (failed["event_type"], failed["code"]) == ("failed", "target-failed")


async def test_synthesis_error_fails_all_targets_and_next_plays(tmp_path, loudspeakers):
    async with house(tmp_path, loudspeakers) as made:
        made.say("[refuse]", "a")
        made.say("Next.", "b")
        failed = await made.over("a")
        assert (failed["event_type"], failed["code"], failed["error"]) == (
            "failed",
            "synthesis-failed",
            "refused on demand",
        )
        assert (await made.over("b"))["event_type"] == "finished"


async def test_stop_cancels_playing_and_clear_cancels_waiting_announcements(tmp_path, loudspeakers):
    loudspeakers["kitchen"].may_play.clear()
    async with house(tmp_path, loudspeakers) as made:
        for name in ("a", "b", "c"):
            made.say(name, name, targets="kitchen")
        await made.until("a", "first_audio")
        made.send("clear")
        assert [made.events(name)[-1]["reason"] for name in ("b", "c")] == ["cleared", "cleared"]
        made.send("stop")
        assert (await made.over("a"))["reason"] == "stopped"
        made.say("d", "d", targets="hall")
        await made.over("d")


async def test_stop_by_id_or_target(tmp_path, loudspeakers):
    for each in loudspeakers.values():
        each.may_play.clear()
    async with house(tmp_path, loudspeakers) as made:
        made.say("a", "a")
        made.say("b", "b")
        await made.until("a", "first_audio")
        made.send("stop", b'{"id": "b"}')
        assert (await made.over("b"))["reason"] == "stopped"
        made.send("stop", b'{"targets": ["hall"]}')
        loudspeakers["kitchen"].may_play.set()
        assert (await made.over("a"))["not_played"] == {"hall": "stopped"}


async def test_stop_while_waiting_for_engine_releases_turn(tmp_path, loudspeakers):
    async with house(tmp_path, loudspeakers) as made:
        made.engine.may_speak.clear()
        made.say("a", "a", targets="kitchen")
        await made.until("a", "started")
        made.send("stop")
        assert (await made.over("a"))["reason"] == "stopped"
        made.engine.may_speak.set()
        made.say("b", "b")
        assert (await made.over("b"))["event_type"] == "finished"


async def test_waiting_announcement_expires(tmp_path, loudspeakers):
    loudspeakers["kitchen"].may_play.clear()
    async with house(tmp_path, loudspeakers) as made:
        made.say("a", "a", targets="kitchen")
        made.say("b", "b", targets="kitchen", expires_s=0.01)
        made.send("say/set", b'{"text": "c", "id": "c", "targets": "kitchen"}', expires_s=0.01)
        for name in ("b", "c"):
            assert (await made.over(name))["reason"] == "expired"


async def test_announcement_waiting_for_engine_expires(tmp_path, loudspeakers):
    async with house(tmp_path, loudspeakers) as made:
        made.engine.may_speak.clear()
        made.say("a", "a", targets="kitchen", expires_s=0.01)
        made.say("b", "b", targets="hall", expires_s=0.01)  # waits for its turn behind a
        for name in ("a", "b"):
            assert (await made.over(name))["reason"] == "expired"
        made.engine.may_speak.set()
        made.say("c", "c", targets="kitchen")
        assert (await made.over("c"))["event_type"] == "finished"
        assert list(loudspeakers["kitchen"].played) == ["c"]


async def test_playing_announcement_does_not_expire(tmp_path, loudspeakers, monkeypatch):
    loudspeakers["kitchen"].may_play.clear()
    async with house(tmp_path, loudspeakers) as made:
        made.say("a", "a", targets="kitchen")
        await made.until("a", "first_audio")
        with monkeypatch.context() as later:
            later.setattr(asyncio.get_running_loop(), "time", lambda: math.inf)
            made.announcer._expire()
        loudspeakers["kitchen"].may_play.set()
        assert (await made.over("a"))["event_type"] == "finished"


async def test_quiet_hours_drop_all_but_urgent(tmp_path):
    now = datetime.datetime.now()
    hours = f"{now - datetime.timedelta(hours=1):%H:%M}-{now + datetime.timedelta(hours=1):%H:%M}"
    async with house(tmp_path, quiet_hours=hours) as made:
        made.say("a", "a")
        made.say("Fire!", "b", priority="high")
        assert (await made.over("a"))["reason"] == "quiet-hours"
        assert (await made.over("b"))["event_type"] == "finished"


async def test_repeats_coalesce_when_enabled(tmp_path, loudspeakers):
    loudspeakers["kitchen"].may_play.clear()
    async with house(tmp_path, loudspeakers, coalesce=True) as made:
        for name in ("a", "b", "c"):
            made.say("The door is open.", name, targets="kitchen")
            await made.until("a", "first_audio")
        assert made.kinds("b") == ["queued"]
        assert made.events("c") == [{"event_type": "cancelled", "id": "c", "reason": "coalesced", "into": "b"}]


async def test_chime_and_volume_are_applied(tmp_path, loudspeakers):
    async with house(tmp_path, loudspeakers, chime=True) as made:
        made.say("a", "loud", targets="kitchen", chime=False)
        made.say("a", "chime", targets="kitchen")
        made.say("a", "silent", targets="kitchen", chime=False, volume=0)
        await made.over("silent")
        played = loudspeakers["kitchen"].played
        assert played["loud"] == spoken("a")
        assert played["chime"].endswith(spoken("a"))
        assert len(played["chime"]) > 2 * len(played["loud"])
        assert played["silent"] == bytes(len(spoken("a")))


async def test_synthesis_is_limited_to_max_jobs(tmp_path, loudspeakers):
    async with house(tmp_path, loudspeakers) as made:
        made.engine.may_speak.clear()
        made.say("a", "a", targets="kitchen")
        made.say("b", "b", targets="hall")
        await made.until("a", "started")
        made.engine.may_speak.set()
        await made.over("a")
        await made.over("b")
        assert made.engine.most_running == 1
