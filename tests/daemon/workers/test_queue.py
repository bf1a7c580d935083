import asyncio

import pytest

from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.schema import Config, Queue
from qwentts_daemon.errors import Code, SpeechError, WorkerLost
from qwentts_daemon.workers.queue import JobQueue, Priority, Turn

ANY = Turn()


def line(max_waiting, max_wait_s, has_fallback=False):
    """An admission with one lane."""
    queue = Queue(max_size=max_waiting, max_wait=max_wait_s)
    admission = JobQueue(LiveConfig(lambda: Config(queue=queue)), has_fallback)
    return admission, admission.add_worker()


async def entered(admission, priority=Priority.ASSIST, client=""):
    task = asyncio.create_task(admission.acquire(Turn(priority, client)))
    await asyncio.sleep(0)
    return task


async def test_acquire_up_to_capacity_in_fifo_order():
    admission, lane = line(max_waiting=10, max_wait_s=5)
    turns = [await entered(admission) for _ in range(4)]
    assert [turn.done() for turn in turns] == [False] * 4
    admission.set_capacity(lane, 2)
    await asyncio.sleep(0)
    assert [turn.done() for turn in turns] == [True, True, False, False]
    admission.release(lane, ANY)
    await asyncio.sleep(0)
    assert [turn.done() for turn in turns] == [True, True, True, False]
    assert (admission.running, admission.waiting) == (2, 1)
    turns[3].cancel()


async def test_acquire_prefers_assist_to_announcements():
    admission, lane = line(max_waiting=10, max_wait_s=5)
    announcement = await entered(admission, Priority.ANNOUNCEMENT)
    assist = await entered(admission, Priority.ASSIST)
    admission.set_capacity(lane, 1)
    await asyncio.wait([assist, announcement], return_when=asyncio.FIRST_COMPLETED)
    assert (assist.done(), announcement.done()) == (True, False)
    announcement.cancel()


async def test_acquire_does_not_overtake_waiting_jobs():
    admission, lane = line(max_waiting=10, max_wait_s=5)
    admission.set_capacity(lane, 1)
    await admission.acquire(ANY)
    first = await entered(admission)
    admission.release(lane, ANY)
    second = await entered(admission)
    assert (first.done(), second.done()) == (True, False)
    second.cancel()


async def test_full_queue_rejects():
    admission, _ = line(max_waiting=1, max_wait_s=5)
    waiting = await entered(admission)
    with pytest.raises(SpeechError) as refused:
        await admission.acquire(ANY)
    assert refused.value.code == Code.QUEUE_FULL
    waiting.cancel()


async def test_waiting_times_out_and_leaves_no_entry():
    admission, _ = line(max_waiting=1, max_wait_s=0.01)
    with pytest.raises(SpeechError) as refused:
        await admission.acquire(ANY)
    assert refused.value.code == Code.QUEUE_TIMEOUT
    assert (admission.running, admission.waiting) == (0, 0)


async def test_cancel_during_assignment_returns_slot():
    admission, lane = line(max_waiting=2, max_wait_s=5)
    first, second = await entered(admission), await entered(admission)
    admission.set_capacity(lane, 1)  # decides for the first, whose task has not run yet
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert not second.cancelled()
    assert (admission.running, admission.waiting) == (1, 0)


async def test_cancel_leaves_queue_at_once():
    admission, lane = line(max_waiting=1, max_wait_s=5)
    waiting = await entered(admission)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert admission.waiting == 0
    again = await entered(admission)
    admission.set_capacity(lane, 1)
    await again


async def test_waiting_jobs_go_to_fallback_when_last_worker_is_lost():
    admission, lane = line(max_waiting=2, max_wait_s=5, has_fallback=True)
    other = admission.add_worker()
    for each in (lane, other):
        admission.set_capacity(each, 1)
        await admission.acquire(ANY)
    waiting = [await entered(admission), await entered(admission)]
    admission.set_capacity(lane, 0)
    await asyncio.sleep(0)
    assert not any(turn.done() for turn in waiting)
    admission.set_capacity(other, 0)
    for turn in waiting:
        with pytest.raises(WorkerLost):
            await turn
    admission.release(lane, ANY)
    admission.set_capacity(lane, 1)
    assert await admission.acquire(ANY) is lane


async def test_waiting_jobs_keep_waiting_without_fallback():
    admission, lane = line(max_waiting=2, max_wait_s=5)
    admission.set_capacity(lane, 1)
    await admission.acquire(ANY)
    waiting = await entered(admission)
    admission.set_capacity(lane, 0)
    admission.release(lane, ANY)
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.set_capacity(lane, 1)
    assert await waiting is lane


async def test_assign_prefers_least_loaded_worker():
    admission, small = line(max_waiting=2, max_wait_s=5)
    large = admission.add_worker()
    admission.set_capacity(small, 2)
    admission.set_capacity(large, 4)
    taken = [await admission.acquire(ANY) for _ in range(6)]
    assert [lane is large for lane in taken] == [True, False, True, True, False, True]
    waiting = await entered(admission)
    admission.release(small, ANY)
    assert await waiting is small


async def test_close_rejects_waiting_and_new_jobs():
    admission, _ = line(max_waiting=2, max_wait_s=5)
    waiting = await entered(admission)
    admission.close(SpeechError(Code.ENGINE_UNAVAILABLE, "gone"))
    for attempt in (waiting, admission.acquire(ANY)):
        with pytest.raises(SpeechError, match="gone"):
            await attempt
    assert (admission.running, admission.waiting) == (0, 0)


async def test_queue_rejects_while_all_workers_are_hung():
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
    assert await admission.acquire(ANY) is second


async def test_free_slot_goes_to_the_client_that_holds_the_fewest():
    admission, lane = line(max_waiting=10, max_wait_s=5)
    admission.set_capacity(lane, 2)
    greedy, other = Turn(client="10.0.0.1"), Turn(client="10.0.0.2")
    for _ in range(2):
        await admission.acquire(greedy)
    more = [await entered(admission, client="10.0.0.1") for _ in range(3)]
    late = await entered(admission, client="10.0.0.2")
    assert admission.exceeds_share("10.0.0.1")
    assert not admission.exceeds_share("10.0.0.2")
    admission.release(lane, greedy)
    await asyncio.sleep(0)
    assert (late.done(), [each.done() for each in more]) == (True, [False] * 3)
    assert not admission.exceeds_share("10.0.0.1")
    admission.release(lane, other)
    await asyncio.sleep(0)
    assert [each.done() for each in more] == [True, False, False]
    for each in more:
        each.cancel()
