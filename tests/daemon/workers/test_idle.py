"""An idle engine frees its GPU and is loaded again by the next request."""

import asyncio

import psutil
from wyoming.tts import Synthesize

from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.workers.idle import IdleManager
from qwentts_daemon.workers.queue import Turn
from tests.support.fakes import RATE
from tests.support.harness import connected, daemon, gone, hear, running_pool, speak, voice_names

ESPEAK_RATE = 22_050
RYAN = SynthesisRequest("ryan")
ALONE = "engine.fallback=false"
BRIEFLY = "engine.keep_alive=0.05"
GONE = "qwentts-qwen3 has given its GPU back"


async def test_idle_worker_unloads_keeps_voices_and_reloads_on_request():
    with daemon(ALONE, BRIEFLY, fake="ToneBackend") as process:
        (worker,) = process.workers()
        assert (await speak(process, "Hello.")).rate == RATE
        process.wait_for(GONE)
        assert not worker.is_running()
        assert process.workers() == []
        assert await voice_names(process) == ["ryan", "vivian"]
        assert (await speak(process, "And back.")).rate == RATE
        process.wait_for("qwentts-qwen3 is ready", 2)


async def test_fallback_speaks_while_model_reloads(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    with daemon(BRIEFLY, fake="SlowLoading", TEST_GATE=str(gate)) as process:
        process.wait_for("qwentts-espeak is ready")
        assert (await speak(process, "Hello.")).rate == RATE
        process.wait_for(GONE)
        gate.unlink()
        assert (await speak(process, "I am only the fallback.")).rate == ESPEAK_RATE
        gate.touch()
        process.wait_for("qwentts-qwen3 is ready", 2)
        # The model stays loaded although the request that reloaded it has already been served.
        assert (await speak(process, "Here I am.")).rate == RATE


async def test_keep_alive_does_not_cut_running_reply():
    with daemon(ALONE, BRIEFLY, fake="Endless") as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            for _ in range(200):  # 8 s of audio
                await hear(client, "audio-chunk")
        process.wait_for(GONE)


async def test_new_voice_in_folder_reloads_model(tmp_path):
    with daemon(ALONE, BRIEFLY, f"voices.dir={tmp_path}", fake="Folder") as process:
        await speak(process, "Hello.")
        process.wait_for(GONE)
        (tmp_path / "anna").mkdir()
        (tmp_path / "anna" / "voice.yaml").write_text("kind: clone")
        process.wait_for("qwentts-qwen3 is ready", 2)
        assert "anna" in await voice_names(process)


async def test_unload_waits_for_running_replies_and_next_request_cancels_it():
    async with running_pool("Endless") as pool:
        async with pool.job(RYAN, "One.", Turn()) as job:
            assert await job.read()
            pool.primary.unload()
            assert pool.primary.ready
        async with pool.job(RYAN, "Two.", Turn()) as job:  # before the loop has come to the unloading
            assert await job.read()
        (worker,) = [each for each in psutil.Process().children() if each.name().startswith("qwentts-")]
        pool.primary.unload()
        await gone(worker)
        assert not pool.primary.ready
        async with pool.job(RYAN, "Three.", Turn()) as job:
            assert await job.read()


async def test_idle_manager_without_keep_alive_stays_active():
    presence = IdleManager(None)
    presence.loaded()
    with presence.job():
        pass
    assert presence.is_active
    presence.unload()
    assert not presence.is_active
    presence.wake()
    assert presence.is_active


async def test_idle_timer_starts_after_last_job_and_not_while_loading():
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
