"""The engine worker may load slowly, fail, or die; clients receive an error or the fallback voice."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
from wyoming.info import Describe
from wyoming.tts import Synthesize, SynthesizeVoice

from tests.support.fakes import RATE
from tests.support.harness import PATIENCE_S, connected, daemon, hear, outliving, speak, started

ESPEAK_RATE = 22_050


async def describe_lists_voices(process):
    async with connected(process) as client:
        await client.write_event(Describe().event())
        return bool((await hear(client, "info")).events[-1].data["tts"][0]["voices"])


async def test_fallback_speaks_while_model_loads(tmp_path):
    gate = tmp_path / "gate"
    with daemon(fake="SlowLoading", ready="qwentts-espeak", TEST_GATE=str(gate)) as process:
        assert await describe_lists_voices(process)
        assert (await speak(process, "I am only the fallback.")).rate == ESPEAK_RATE
        gate.touch()
        process.wait_for("is ready: tones")
        assert (await speak(process, "Now it is me.")).rate == RATE


async def test_request_before_any_engine_is_ready_goes_to_first_ready(tmp_path):
    with started(fake="SlowLoading", TEST_GATE=str(tmp_path / "gate")) as process:
        assert (await speak(process, "Is anybody there?")).rate == ESPEAK_RATE


async def test_waiting_requests_go_to_fallback_when_worker_dies():
    with daemon(fake="Endless") as process:
        process.wait_for("qwentts-espeak is ready")
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):  # as many as the engine takes
                client = await stack.enter_async_context(connected(process))
                await client.write_event(Synthesize("On and on.").event())
                await hear(client, "audio-chunk")
            waiting = await stack.enter_async_context(connected(process))
            await waiting.write_event(Synthesize("Me too.").event())
            await waiting.write_event(Describe().event())
            await hear(waiting, "info")
            next(worker for worker in process.workers() if worker.name() == "qwentts-qwen3").kill()
            assert (await hear(waiting, "audio-stop")).rate == ESPEAK_RATE


async def test_request_waits_for_model_without_fallback(tmp_path):
    gate = tmp_path / "gate"
    with started("engine.fallback=false", fake="SlowLoading", TEST_GATE=str(gate)) as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("I can wait.").event())
            assert await describe_lists_voices(process)
            gate.touch()
            assert (await hear(client, "audio-stop")).rate == RATE


async def test_fallback_speaks_when_model_cannot_be_loaded():
    with daemon(fake="Unloadable", ready="qwentts-espeak") as process:
        process.wait_for("cannot be loaded: no such model")
        assert (await speak(process, "I am only the fallback.")).rate == ESPEAK_RATE


async def test_fallback_speaks_when_machine_cannot_run_model():
    settings = [
        "engine.backend=auto",
        "engine.model=/nowhere",
        "voices.default=ryan",
        "voices.aliases={kitchen: ryan@de}",
    ]
    with daemon(*settings) as process:
        process.wait_for("WARNING .*voices.default: no voice 'ryan'.*it may still come")
        assert (await speak(process, "I am only the fallback.", SynthesizeVoice("ryan", speaker="whisper"))).pcm
        assert (await speak(process, "Ich auch.", SynthesizeVoice("kitchen"))).pcm
        process.wait_for(r"done: .*voice espeak-de\b")


async def test_unusable_backend_without_fallback_stops_start():
    with started(
        "engine.backend=auto", "engine.fallback=false", "engine.model=/nowhere", "voices.default=ryan"
    ) as process:
        assert process.wait() == os.EX_CONFIG


async def test_load_error_is_logged_and_fallback_speaks():
    with started(fake="Faulty") as process:
        process.wait_for("qwentts-espeak is ready")
        process.wait_for("qwentts-qwen3 cannot be loaded: KeyError: 'weights'")
        assert (await speak(process, "I am only the fallback.")).rate == ESPEAK_RATE
        assert process.stop() == 0


async def test_daemon_without_any_voice_exits_with_reason():
    with started("engine.fallback=false", fake="Unloadable") as process:
        assert process.wait() == os.EX_UNAVAILABLE
        assert "no voice can be loaded: no such model" in "\n".join(process.lines)
        assert "Traceback" not in "\n".join(process.lines)


async def test_killed_worker_fails_its_client_and_is_replaced():
    with daemon("engine.fallback=false", fake="Endless") as process:
        (worker,) = process.workers()
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
            worker.kill()
            heard = await hear(client, "never")
        assert heard.code == "engine-unavailable"
        assert "audio-stop" not in heard.types
        assert await describe_lists_voices(process)
        async with connected(process) as client:
            await client.write_event(Synthesize("And on.").event())
            assert (await hear(client, "audio-chunk")).types == ["audio-start", "audio-chunk"]


async def test_worker_that_crashes_on_a_text_is_replaced():
    with daemon("engine.fallback=false", fake="Suicidal") as process:
        assert (await speak(process, "Please [die] now.")).code == "engine-unavailable"
        assert (await speak(process, "And again.")).rate == RATE


async def test_silent_worker_is_replaced():
    with daemon("engine.fallback=false", "engine.heartbeat_timeout=3", fake="Endless") as process:
        (worker,) = process.workers()
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
            worker.suspend()
            assert (await hear(client, "never")).code == "engine-unavailable"
        process.wait_for("has been silent for 3 s")
        process.wait_for("is ready", 2)


def test_daemon_stops_while_silent_worker_is_being_replaced():
    with started("engine.fallback=false", "engine.heartbeat_timeout=3", fake="ToneBackend") as process:
        process.wait_for("is ready")
        process.workers()[0].suspend()
        process.wait_for("has been silent for 3 s")
        assert process.stop() == 0


def test_worker_silent_while_loading_is_replaced(tmp_path):
    gate = tmp_path / "gate"
    settings = ("engine.fallback=false", "engine.heartbeat_timeout=3")
    with started(*settings, fake="SlowLoading", TEST_GATE=str(gate)) as process:
        process.wait_for("listening")
        while not process.workers():
            pass  # it names itself a moment after it was spawned
        process.workers()[0].suspend()
        process.wait_for("has been silent for 3 s")
        gate.touch()
        process.wait_for("is ready")
        assert process.stop() == 0


async def test_worker_ignores_signals_for_the_daemon():
    with daemon(fake="ToneBackend") as process:
        for worker in process.workers():
            worker.send_signal(signal.SIGINT)
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGHUP)
        assert (await speak(process, "Nothing happened.")).rate == RATE
        assert len([line for line in process.lines if "is ready" in line]) <= 2


def test_worker_is_killed_for_memory_before_the_daemon():
    with daemon(fake="ToneBackend") as process:
        own = int(Path(f"/proc/{process.process.pid}/oom_score_adj").read_text())
        scores = [int(Path(f"/proc/{worker.pid}/oom_score_adj").read_text()) for worker in process.workers()]
        assert scores
        assert min(scores) > own


def test_worker_exits_when_daemon_is_killed():
    with daemon_killed() as workers:
        assert len(workers) == 2
        assert not outliving(workers)


class daemon_killed:
    """Return both workers of a daemon that was killed with SIGKILL."""

    def __enter__(self):
        self._context = started(fake="ToneBackend")
        process = self._context.__enter__()
        process.wait_for("is ready", 2)
        workers = process.workers()
        process.process.kill()
        return workers

    def __exit__(self, *error):
        self._context.__exit__(*error)


@pytest.mark.parametrize("backend", ["auto", "espeak"])
async def test_backend_choice_is_logged_with_reason(backend):
    with daemon(f"engine.backend={backend}", "engine.model=/nonexistent") as process:  # what `auto` needs beside a GPU
        assert len([line for line in process.lines if f"engine.backend {backend}: espeak, because" in line]) == 1
        heard = await asyncio.wait_for(speak(process, "Good evening."), PATIENCE_S)
    assert heard.rate == ESPEAK_RATE
