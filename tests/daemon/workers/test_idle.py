"""An engine that nobody needs gives its GPU back, and comes back when somebody speaks."""

import asyncio

import psutil
from wyoming.info import Describe
from wyoming.tts import Synthesize

from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.workers.idle import IdleManager
from qwentts_daemon.workers.queue import Priority
from tests.support.fakes import RATE
from tests.support.harness import connected, daemon, gone, hear, running_pool, speak

ESPEAK_RATE = 22_050
RYAN = SynthesisRequest("ryan")
ALONE = "engine.fallback=false"
BRIEFLY = "engine.keep_alive=0.05"
GONE = "qwentts-qwen3 has given its GPU back"


async def voices(process):
    async with connected(process) as client:
        await client.write_event(Describe().event())
        return [voice["name"] for voice in (await hear(client, "info")).events[-1].data["tts"][0]["voices"]]


async def test_an_idle_worker_is_gone_its_voices_are_not_and_the_next_request_waits_for_it():
    with daemon(ALONE, BRIEFLY, fake="ToneBackend") as process:
        (worker,) = process.workers()
        assert (await speak(process, "Hello.")).rate == RATE
        process.wait_for(GONE)
        assert not worker.is_running()
        assert process.workers() == []
        assert await voices(process) == ["ryan", "vivian"]
        assert (await speak(process, "And back.")).rate == RATE
        process.wait_for("qwentts-qwen3 is ready", 2)


async def test_the_embedded_voice_covers_while_the_model_comes_back(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    with daemon(BRIEFLY, fake="SlowLoading", TEST_GATE=str(gate)) as process:
        process.wait_for("qwentts-espeak is ready")
        assert (await speak(process, "Hello.")).rate == RATE
        process.wait_for(GONE)
        gate.unlink()
        assert (await speak(process, "I am only the stand-in.")).rate == ESPEAK_RATE
        gate.touch()
        process.wait_for("qwentts-qwen3 is ready", 2)
        assert (await speak(process, "Here I am.")).rate == RATE  # although it came back for somebody long served


async def test_a_reply_longer_than_the_time_is_not_cut():
    with daemon(ALONE, BRIEFLY, fake="Endless") as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            for _ in range(200):  # 8 s of audio
                await hear(client, "audio-chunk")
        process.wait_for(GONE)


async def test_a_new_voice_in_the_folder_calls_the_model_back(tmp_path):
    with daemon(ALONE, BRIEFLY, f"voices.dir={tmp_path}", fake="Folder") as process:
        await speak(process, "Hello.")
        process.wait_for(GONE)
        (tmp_path / "anna").mkdir()
        (tmp_path / "anna" / "voice.yaml").write_text("kind: clone")
        process.wait_for("qwentts-qwen3 is ready", 2)
        assert "anna" in await voices(process)


async def test_unload_waits_for_running_replies_and_is_undone_by_the_next():
    async with running_pool("Endless") as pool:
        async with pool.job(RYAN, "One.", Priority.ASSIST) as job:
            assert await job.read()
            pool.primary.unload()
            assert pool.primary.ready
        async with pool.job(RYAN, "Two.", Priority.ASSIST) as job:  # before the loop has come to the unloading
            assert await job.read()
        (worker,) = [each for each in psutil.Process().children() if each.name().startswith("qwentts-")]
        pool.primary.unload()
        await gone(worker)
        assert not pool.primary.ready
        async with pool.job(RYAN, "Three.", Priority.ASSIST) as job:
            assert await job.read()


async def test_an_engine_without_a_time_stays():
    presence = IdleManager(None)
    presence.loaded()
    with presence.job():
        pass
    assert presence.is_active
    presence.unload()
    assert not presence.is_active
    presence.wake()
    assert presence.is_active


async def test_the_clock_runs_from_the_last_job_only_and_not_while_loading():
    presence = IdleManager(0.0)
    presence.wake()
    await asyncio.sleep(0.01)
    assert presence.is_active, "not loaded yet"
    presence.loaded()
    with presence.job(), presence.job():
        await asyncio.sleep(0.01)
    assert presence.is_active
    await asyncio.wait_for(presence.deactivated(), 1)
    assert not presence.is_active
