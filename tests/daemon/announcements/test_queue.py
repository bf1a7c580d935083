import datetime

import pytest

from qwentts_daemon.announcements.queue import (
    Announcement,
    AnnouncementQueue,
    Coalesced,
    QuietHours,
    RepeatedId,
    Urgency,
)
from qwentts_daemon.errors import SpeechError
from qwentts_daemon.voices.request import SynthesisRequest


def announcement(name, *targets, urgency=Urgency.NORMAL, text="Dinner.", expires_at_s=100.0):
    return Announcement(
        id=name, text=text, request=SynthesisRequest("ryan"), targets=targets or ("kitchen",), urgency=urgency,
        volume=1.0, chime=False, arrived_s=0.0, expires_at_s=expires_at_s,
    )  # fmt: skip


def line(*waiting, size=10, coalesce=False):
    made = AnnouncementQueue(size, coalesce)
    for each in waiting:
        made.add(each)
    return made


def taken(line, target):
    names = []
    while each := line.take(target):
        names.append(each.id)
    return names


def test_the_urgent_first_and_else_in_order_of_arrival():
    waiting = line(
        announcement("a"), announcement("low", urgency=Urgency.LOW), announcement("b"),
        announcement("high", urgency=Urgency.HIGH), announcement("c"),
    )  # fmt: skip
    assert taken(waiting, "kitchen") == ["high", "a", "b", "c", "low"]


def test_each_target_has_its_own_order_and_waits_for_no_other():
    waiting = line(
        announcement("a", "kitchen", "hall"), announcement("b", "hall"), announcement("c", "kitchen", "hall")
    )
    assert taken(waiting, "kitchen") == ["a", "c"]
    assert len(waiting) == 3
    assert taken(waiting, "hall") == ["a", "b", "c"]
    assert len(waiting) == 0


def test_a_full_line_refuses_and_may_be_asked_again():
    waiting = line(announcement("a"), size=1)
    with pytest.raises(SpeechError) as refused:
        waiting.add(announcement("b"))
    assert refused.value.code == "queue-full"
    with pytest.raises(RepeatedId):
        waiting.add(announcement("a"))
    waiting.take("kitchen")
    waiting.add(announcement("b"))


def test_an_id_is_taken_once_also_after_it_was_spoken():
    waiting = line(announcement("a"))
    waiting.take("kitchen")
    with pytest.raises(RepeatedId):
        waiting.add(announcement("a"))


def test_ids_are_forgotten_when_there_are_too_many():
    waiting = AnnouncementQueue(10, coalesce=False)
    for number in range(1_001):
        waiting.add(announcement(f"a{number}"))
        waiting.take("kitchen")
    waiting.add(announcement("a0"))


def test_repeats_are_coalesced_only_while_the_first_waits_everywhere_and_only_when_asked_to():
    line(announcement("a"), announcement("b"))
    waiting = line(announcement("a", "kitchen", "hall"), coalesce=True)
    with pytest.raises(Coalesced) as same:
        waiting.add(announcement("b", "kitchen", "hall"))
    assert same.value.into == "a"
    waiting.add(announcement("c", "kitchen"))
    waiting.add(announcement("d", "kitchen", "hall", text="Tea."))
    waiting.take("hall")
    waiting.add(announcement("e", "kitchen", "hall"))


def test_what_is_dropped_tells_from_where():
    waiting = line(announcement("a", "kitchen", "hall"), announcement("b"))
    waiting.take("hall")
    assert [(each.id, targets) for each, targets in waiting.drop(lambda _: True)] == [
        ("a", ["kitchen"]),
        ("b", ["kitchen"]),
    ]
    assert len(waiting) == 0


def test_dropping_from_one_target_leaves_the_others():
    waiting = line(announcement("a", "kitchen", "hall"))
    assert [targets for _, targets in waiting.drop(lambda _: True, ["hall", "attic"])] == [["hall"]]
    assert taken(waiting, "kitchen") == ["a"]


@pytest.mark.parametrize(
    ("words", "time", "quiet"),
    [
        ("22:00-07:00", "21:59", False), ("22:00-07:00", "22:00", True), ("22:00-07:00", "03:00", True),
        ("22:00-07:00", "07:00", False), ("13:00-15:00", "14:00", True), ("13:00-15:00", "15:00", False),
        ("13:00-15:00", "02:00", False),
    ],
)  # fmt: skip
def test_quiet_hours_may_go_beyond_midnight(words, time, quiet):
    assert QuietHours.parse(words).cover(datetime.time.fromisoformat(time)) is quiet
