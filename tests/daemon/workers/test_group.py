"""One engine in several processes, as on a machine with several GPUs: they share the work and fail alone."""

import contextlib

import pytest
from wyoming.info import Describe
from wyoming.tts import Synthesize

from engine.ipc.settings import ModelSettings
from qwentts_daemon.config.loader import load
from qwentts_daemon.workers.engine_settings import choose_engines
from tests.support.fakes import RATE
from tests.support.harness import connected, daemon, hear, speak, started

ESPEAK_RATE = 22_050
TWO = "engine.devices=[cuda:0, cuda:1]"
ALONE = "engine.fallback=false"


@contextlib.asynccontextmanager
async def asking(process):
    """Yield a client that has sent a request on a new connection and received its first event."""
    async with connected(process) as client:
        await client.write_event(Synthesize("On and on.").event())
        await client.write_event(Describe().event())
        await hear(client, "info")
        yield client


@contextlib.asynccontextmanager
async def speaking(process, count):
    """Yield clients that receive an endless reply."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(asking(process)) for _ in range(count)]
        for client in clients:
            await hear(client, "audio-chunk")
        yield clients


def worker(process, number):
    return next(each for each in process.workers() if each.name() == f"qwentts-qwen3-{number}")


@contextlib.contextmanager
def both_ready(*settings, **options):
    with daemon(TWO, *settings, ready="qwentts-qwen3-0", **options) as process:
        process.wait_for("qwentts-qwen3-1 is ready: ")
        yield process


async def test_workers_fill_to_capacity_then_queue_is_full():
    with both_ready(ALONE, "queue.max_size=1", "queue.max_wait=60", fake="EndlessSingle") as process:
        async with speaking(process, 2), asking(process):
            assert (await speak(process, "No room.")).code == "queue-full"


async def test_waiting_request_gets_first_free_worker():
    with both_ready(ALONE, fake="EndlessSingle") as process:
        async with speaking(process, 2) as (_, second), asking(process) as waiting:
            await second.disconnect()
            assert (await hear(waiting, "audio-chunk")).types == ["audio-start", "audio-chunk"]


async def test_dead_worker_is_replaced_while_other_continues():
    with both_ready(ALONE, fake="EndlessSingle") as process:
        async with speaking(process, 2) as clients, asking(process) as waiting:
            worker(process, 1).kill()
            process.wait_for("qwentts-qwen3-1 is ready", 2)
            assert (await hear(waiting, "audio-chunk")).types == ["audio-start", "audio-chunk"]
            lost = clients[1]  # the first job went to the first worker
            assert (await hear(lost, "never")).code == "engine-unavailable"
            assert (await hear(clients[0], "audio-chunk")).types == ["audio-chunk"]
        assert len([line for line in process.lines if "qwentts-qwen3-0 is ready" in line]) == 1


async def test_fallback_speaks_when_all_workers_died():
    with both_ready(fake="EndlessSingle") as process:
        process.wait_for("qwentts-espeak is ready")
        async with speaking(process, 2), asking(process) as waiting:
            victims = [worker(process, number) for number in (0, 1)]
            for victim in victims:
                victim.suspend()
            for victim in victims:
                victim.kill()
            assert (await hear(waiting, "audio-stop")).rate == ESPEAK_RATE


async def test_worker_that_cannot_load_leaves_jobs_to_the_other():
    with started(TWO, ALONE, fake="LoadsOnFirst") as process:
        process.wait_for("qwentts-qwen3-1 cannot be loaded: no such device")
        assert (await speak(process, "It works.")).rate == RATE
        assert process.stop() == 0


def settings_of(*words, **environment):
    config = load(None, {}, ["engine.backend=qwen3", *words])
    return [[(each.name, each.model and each.model.device) for each in engine]
            for engine in choose_engines(config, environment)]  # fmt: skip


@pytest.mark.parametrize(
    ("devices", "workers"),
    [
        ("auto", [("qwentts-qwen3", "auto")]),
        ("[cuda:3]", [("qwentts-qwen3", "cuda:3")]),
        ("[cuda:1, cuda]", [("qwentts-qwen3-1", "cuda:1"), ("qwentts-qwen3-0", "cuda")]),
        ("all", [("qwentts-qwen3-0", "cuda:0"), ("qwentts-qwen3-1", "cuda:1")]),
    ],
)
def test_one_worker_per_device_and_one_fallback(devices, workers):
    found = settings_of(f"engine.devices={devices}", CUDA_VISIBLE_DEVICES="4,5")
    assert found == [workers, [("qwentts-espeak", None)]]


def test_devices_all_without_gpu_count_means_auto():
    assert settings_of("engine.devices=all", "engine.fallback=false", CUDA_VISIBLE_DEVICES="") == [
        [("qwentts-qwen3", "auto")]
    ]


def test_worker_settings_carry_model_options():
    config = load(None, {}, ["engine.backend=qwen3", "engine.kernels=plain", "engine.cuda_graphs=false",
                             "engine.codec_dtype=float16", "audio.trim_silence=true"])  # fmt: skip
    (worker_settings,) = choose_engines(config, {})[0]
    model = worker_settings.model
    assert isinstance(model, ModelSettings)
    assert (model.kernels, model.codec_dtype) == ("plain", "float16")
    assert (model.cuda_graphs, model.trim_silence) == (False, True)
