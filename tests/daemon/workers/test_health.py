"""A worker that does not react: its clients are helped at once, and it is replaced only when it stays away."""

import asyncio
import contextlib
import os
import time

import psutil
import pytest
from wyoming.info import Describe
from wyoming.tts import Synthesize

from engine.ipc.messages import Health
from engine.worker.process import Worker
from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.workers import health
from qwentts_daemon.workers import process as worker_process
from qwentts_daemon.workers.health import HeartbeatMonitor, WorkerHealth, classify
from qwentts_daemon.workers.process import UNREAD_COMMANDS_BYTES
from qwentts_daemon.workers.queue import Turn
from tests.support.fakes import RATE, ToneBackend
from tests.support.harness import PATIENCE_S, connected, daemon, gone, hear, running_pool, speak

ESPEAK_RATE = 22_050
ALONE = "engine.fallback=false"
RYAN = SynthesisRequest("ryan")


@pytest.mark.parametrize(
    ("silent_s", "step_s", "long_running", "condition"),
    [
        (0, 0, False, WorkerHealth.HEALTHY),
        (1.9, 1.9, False, WorkerHealth.HEALTHY),
        (2, 0, False, WorkerHealth.SLOW),
        (0, 2, False, WorkerHealth.SLOW),
        (4, 0, False, WorkerHealth.HUNG),
        (0, 4, False, WorkerHealth.HUNG),
        (0, 29, False, WorkerHealth.HUNG),
        (0, 29, True, WorkerHealth.SLOW),
        (0, 300, True, WorkerHealth.SLOW),
        (0, 600, True, WorkerHealth.DEAD),
        (0, 30, False, WorkerHealth.DEAD),
        (30, 0, False, WorkerHealth.DEAD),
        (30, 0, True, WorkerHealth.DEAD),
    ],
)
def test_classify_by_silence_and_step_time(silent_s, step_s, long_running, condition):
    assert classify(silent_s, step_s, long_running, 30) is condition


def test_classify_tolerates_long_steps_on_cpu():
    worker, backend = Worker(None, None), ToneBackend(None)
    backend.step_limit_s = 30.0
    worker._backend = backend
    assert worker._health() == Health()
    worker._step_began_s = time.monotonic() - 20
    assert worker._health() == Health()
    worker._step_began_s = time.monotonic() - 33
    assert worker._health().step_s >= 3


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self, monkeypatch):
        self.now_s = 1000.0
        monkeypatch.setattr(health.time, "monotonic", lambda: self.now_s)

    def look(self, worker, seconds):
        """Classify every half second for the given time and return the last condition."""
        for _ in range(int(seconds / health.CHECK_INTERVAL_S)):
            self.now_s += health.CHECK_INTERVAL_S
            condition = worker.check()
        return condition


def test_monitor_recovers_after_new_heartbeat(monkeypatch):
    clock = Clock(monkeypatch)
    worker = HeartbeatMonitor(30)
    assert clock.look(worker, 5) is WorkerHealth.HUNG
    worker.message()
    assert clock.look(worker, 1) is WorkerHealth.HEALTHY
    assert clock.look(worker, 30) is WorkerHealth.DEAD


def test_monitor_ignores_delays_of_its_own_event_loop(monkeypatch):
    clock = Clock(monkeypatch)
    worker = HeartbeatMonitor(30)
    clock.now_s += 100
    assert worker.check() is WorkerHealth.HEALTHY
    assert clock.look(worker, 2) is WorkerHealth.SLOW


@contextlib.contextmanager
def suspended(worker_process):
    """Suspend the daemon's GPU worker; resume it at the end if it still exists."""
    worker = next(each for each in worker_process.workers() if each.name() == "qwentts-qwen3")
    worker.suspend()
    try:
        yield worker
    finally:
        if worker.is_running():
            worker.resume()


async def test_fallback_speaks_while_worker_is_hung():
    with daemon(fake="ToneBackend") as worker_process:
        worker_process.wait_for("qwentts-espeak is ready")
        with suspended(worker_process):
            assert (await speak(worker_process, "It does not answer.")).rate == ESPEAK_RATE
            worker_process.wait_for("has been silent for . s; it gets no replies")
            assert (await speak(worker_process, "And still not.")).rate == ESPEAK_RATE
        worker_process.wait_for("qwentts-qwen3 reacts again")
        assert (await speak(worker_process, "Here I am.")).rate == RATE
        assert len([line for line in worker_process.lines if "qwentts-qwen3 is ready" in line]) == 1


async def test_hung_reply_fails_within_seconds_and_worker_survives():
    with daemon(ALONE, fake="Endless") as worker_process:
        async with connected(worker_process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
            with suspended(worker_process):
                heard = await hear(client, "never")
                assert (await speak(worker_process, "Does it hang?")).code == "engine-unavailable"
        assert heard.code == "engine-unavailable"
        worker_process.wait_for("reacts again")
        assert (await first_types(worker_process)) == ["audio-start", "audio-chunk"]
        worker_process.wait_for("engine.worker.process: job 1 cancelled")


async def test_endless_step_gets_worker_killed_and_client_served():
    with daemon("engine.heartbeat_timeout=3", fake="Hanging") as worker_process:
        worker_process.wait_for("qwentts-espeak is ready")
        assert (await speak(worker_process, "Now [hang] for ever.")).rate == ESPEAK_RATE
        worker_process.wait_for("qwentts-qwen3 has been in one step for . s$")
        worker_process.wait_for("qwentts-qwen3 is ready", 2)
        assert (await speak(worker_process, "And again.")).rate == RATE


async def test_long_running_work_is_awaited_without_fallback(tmp_path):
    gate = tmp_path / "gate"
    with daemon(ALONE, "engine.heartbeat_timeout=3", fake="Hanging", TEST_GATE=str(gate)) as worker_process:
        async with connected(worker_process) as client:
            await client.write_event(Synthesize("Wait [announced] now.").event())
            worker_process.wait_for("has been in one step for . s; it gets no replies")
            began_s = time.monotonic()
            while time.monotonic() - began_s < 2.5:  # beyond the time-out of a step that is not long_running
                assert (await touch(worker_process)) == "info"
            gate.touch()
            assert (await hear(client, "audio-stop")).rate == RATE
        assert len([line for line in worker_process.lines if "qwentts-qwen3 is ready" in line]) == 1


async def first_types(worker_process):
    async with connected(worker_process) as client:
        await client.write_event(Synthesize("And on.").event())
        return (await hear(client, "audio-chunk")).types


async def touch(worker_process):
    """What a daemon answers to a describe meanwhile."""
    async with connected(worker_process) as client:
        await client.write_event(Describe().event())
        return (await hear(client, "info")).types[-1]


async def test_worker_that_reads_no_commands_is_replaced():
    async with running_pool("Endless") as pool:
        async with pool.job(RYAN, "One.", Turn()) as job:
            assert await job.read()
        (worker,) = [each for each in psutil.Process().children() if each.name().startswith("qwentts-")]
        worker.suspend()
        for _ in range(10):
            async with pool.job(RYAN, "x" * (UNREAD_COMMANDS_BYTES // 6), Turn()):
                pass
        await gone(worker)
        async with pool.job(RYAN, "Two.", Turn()) as job:
            assert await job.read()


async def test_pool_reports_trouble_until_an_unkillable_worker_is_gone(monkeypatch):
    """Without the report, systemd would consider the service healthy and never restart it."""
    ending, may_end, end = asyncio.Event(), asyncio.Event(), worker_process._end

    async def end_late(*arguments):
        ending.set()
        await may_end.wait()
        await end(*arguments)

    monkeypatch.setattr(worker_process, "_end", end_late)
    async with running_pool("Endless", "engine.heartbeat_timeout=3") as pool:
        async with pool.job(RYAN, "One.", Turn()) as job:
            assert await job.read()
        (worker,) = [each for each in psutil.Process().children() if each.name().startswith("qwentts-")]
        worker.suspend()
        try:
            await asyncio.wait_for(ending.wait(), PATIENCE_S)
            assert pool.trouble(0.5) == "qwentts-qwen3 is silent"
        finally:
            worker.resume()
            may_end.set()


class Immortal:
    """A process whose driver hangs: no signal reaches it."""

    name = "qwentts-qwen3"

    def kill(self):
        pass

    def join(self):
        pass

    def close(self):
        pass


async def test_unkillable_worker_is_logged_as_needing_reboot(monkeypatch, caplog):
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 0.01)
    monkeypatch.setattr(worker_process, "KILL_TIMEOUT_S", 0.01)
    sleeper = await asyncio.create_subprocess_exec("sleep", "60")
    ending = asyncio.create_task(worker_process._end(Immortal(), os.pidfd_open(sleeper.pid)))
    done, _ = await asyncio.wait([ending], timeout=0.5)
    assert not done
    assert [record.message for record in caplog.records] == [
        "qwentts-qwen3 does not die: the GPU's driver hangs, and only a reboot frees the GPU"
    ]
    sleeper.kill()
    await asyncio.wait_for(ending, PATIENCE_S)
    await sleeper.wait()
