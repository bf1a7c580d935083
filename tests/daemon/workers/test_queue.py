import asyncio

import pytest

from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.schema import Config, Queue
from qwentts_daemon.errors import Code, SpeechError, WorkerLost
from qwentts_daemon.workers.queue import JobQueue, Priority


def line(max_waiting, max_wait_s, has_fallback=False):
    """An admission with one lane."""
    queue = Queue(max_size=max_waiting, max_wait=max_wait_s)
    admission = JobQueue(LiveConfig(lambda: Config(queue=queue)), has_fallback)
    return admission, admission.add_worker()


async def entered(admission, priority=Priority.ASSIST):
    task = asyncio.create_task(admission.acquire(priority))
    await asyncio.sleep(0)
    return task


async def test_lets_in_as_many_as_the_capacity_in_order_of_arrival():
    admission, lane = line(max_waiting=10, max_wait_s=5)
    turns = [await entered(admission) for _ in range(4)]
    assert [turn.done() for turn in turns] == [False] * 4
    admission.set_capacity(lane, 2)
    await asyncio.sleep(0)
    assert [turn.done() for turn in turns] == [True, True, False, False]
    admission.release(lane)
    await asyncio.sleep(0)
    assert [turn.done() for turn in turns] == [True, True, True, False]
    assert (admission.running, admission.waiting) == (2, 1)
    turns[3].cancel()


async def test_assist_goes_before_announcements():
    admission, lane = line(max_waiting=10, max_wait_s=5)
    announcement = await entered(admission, Priority.ANNOUNCEMENT)
    assist = await entered(admission, Priority.ASSIST)
    admission.set_capacity(lane, 1)
    await asyncio.wait([assist, announcement], return_when=asyncio.FIRST_COMPLETED)
    assert (assist.done(), announcement.done()) == (True, False)
    announcement.cancel()


async def test_nobody_overtakes_the_line():
    admission, lane = line(max_waiting=10, max_wait_s=5)
    admission.set_capacity(lane, 1)
    await admission.acquire(Priority.ASSIST)
    first = await entered(admission)
    admission.release(lane)
    second = await entered(admission)
    assert (first.done(), second.done()) == (True, False)
    second.cancel()


async def test_a_full_line_refuses():
    admission, _ = line(max_waiting=1, max_wait_s=5)
    waiting = await entered(admission)
    with pytest.raises(SpeechError) as refused:
        await admission.acquire(Priority.ASSIST)
    assert refused.value.code == Code.QUEUE_FULL
    waiting.cancel()


async def test_waiting_ends_with_queue_timeout_and_leaves_nothing():
    admission, _ = line(max_waiting=1, max_wait_s=0.01)
    with pytest.raises(SpeechError) as refused:
        await admission.acquire(Priority.ASSIST)
    assert refused.value.code == Code.QUEUE_TIMEOUT
    assert (admission.running, admission.waiting) == (0, 0)


async def test_one_who_gives_up_while_being_let_in_gives_the_place_back():
    admission, lane = line(max_waiting=2, max_wait_s=5)
    first, second = await entered(admission), await entered(admission)
    admission.set_capacity(lane, 1)  # decides for the first, whose task has not run yet
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert not second.cancelled()
    assert (admission.running, admission.waiting) == (1, 0)


async def test_one_who_gives_up_leaves_the_line_at_once():
    admission, lane = line(max_waiting=1, max_wait_s=5)
    waiting = await entered(admission)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert admission.waiting == 0
    again = await entered(admission)
    admission.set_capacity(lane, 1)
    await again


async def test_whoever_waits_is_given_back_when_the_last_worker_goes_and_another_engine_covers():
    admission, lane = line(max_waiting=2, max_wait_s=5, has_fallback=True)
    other = admission.add_worker()
    for each in (lane, other):
        admission.set_capacity(each, 1)
        await admission.acquire(Priority.ASSIST)
    waiting = [await entered(admission), await entered(admission)]
    admission.set_capacity(lane, 0)
    await asyncio.sleep(0)
    assert not any(turn.done() for turn in waiting)
    admission.set_capacity(other, 0)
    for turn in waiting:
        with pytest.raises(WorkerLost):
            await turn
    admission.release(lane)
    admission.set_capacity(lane, 1)
    assert await admission.acquire(Priority.ASSIST) is lane


async def test_without_a_cover_whoever_waits_goes_on_waiting():
    admission, lane = line(max_waiting=2, max_wait_s=5)
    admission.set_capacity(lane, 1)
    await admission.acquire(Priority.ASSIST)
    waiting = await entered(admission)
    admission.set_capacity(lane, 0)
    admission.release(lane)
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.set_capacity(lane, 1)
    assert await waiting is lane


async def test_the_least_loaded_worker_gets_the_job():
    admission, small = line(max_waiting=2, max_wait_s=5)
    large = admission.add_worker()
    admission.set_capacity(small, 2)
    admission.set_capacity(large, 4)
    taken = [await admission.acquire(Priority.ASSIST) for _ in range(6)]
    assert [lane is large for lane in taken] == [True, False, True, True, False, True]
    waiting = await entered(admission)
    admission.release(small)
    assert await waiting is small


async def test_a_closed_line_refuses_all_who_wait_and_come():
    admission, _ = line(max_waiting=2, max_wait_s=5)
    waiting = await entered(admission)
    admission.close(SpeechError(Code.ENGINE_UNAVAILABLE, "gone"))
    for attempt in (waiting, admission.acquire(Priority.ASSIST)):
        with pytest.raises(SpeechError, match="gone"):
            await attempt
    assert (admission.running, admission.waiting) == (0, 0)


async def test_nobody_waits_where_no_worker_reacts_until_one_does():
    admission, first = line(max_waiting=10, max_wait_s=5)
    second = admission.add_worker()
    waiting = await entered(admission)
    admission.set_hung(first)
    await asyncio.sleep(0)
    assert not waiting.done(), "the second worker may still load"
    admission.set_hung(second)
    for turn in (waiting, await entered(admission)):
        with pytest.raises(SpeechError, match="does not react"):
            await turn
    admission.set_capacity(second, 1)
    assert await admission.acquire(Priority.ASSIST) is second
