"""A sentence, spoken and timed: by the running daemon, or by its engine alone, without any front end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from ..config.live import LiveConfig
from ..config.schema import Config
from ..daemon import PoolTask, make_pool
from ..errors import QwenTtsError, first_error
from ..synthesis.reply import Synthesizer
from ..voices.catalog import VoiceCatalog
from ..wyoming import client
from .findings import Finding, error, ok, warning

SENTENCE = "Good evening, and good health."
SPEAKS_WITHIN_S = 180.0
SLOW_S = 1.5


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """How long it took, and how much audio it produced."""

    first_audio_s: float
    total_s: float
    audio_s: float


def check_daemon(uri: str) -> list[Finding]:
    """A sentence of the running daemon."""
    try:
        result = asyncio.run(_say(uri))
    except (QwenTtsError, OSError, TimeoutError) as fault:
        remedy = "see its log: journalctl -u qwentts"
        return [error("speech", f"the running daemon does not speak: {fault or 'too slow'}", remedy)]
    return [_judged("the running daemon", SpokenSentence(result.first_audio_s, result.total_s, result.audio_s))]


async def _say(uri: str) -> client.ClientResult:
    async with asyncio.timeout(SPEAKS_WITHIN_S):
        return await client.say(
            client.ClientOptions(uri, None, None, 0.0), client.whole(SENTENCE), lambda rate, pcm: None
        )


def check_engine(config: Config, name: str, voices: Path) -> list[Finding]:
    """A sentence of the engine `name` in processes of its own that leave nothing behind; no daemon runs."""
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch) / "voices"
        if voices.is_dir():
            shutil.copytree(voices, copied, ignore_dangling_symlinks=True)
        engine = {"backend": name, "fallback": False, "offline": True, "keep_alive": -1}
        engine |= {"kernels": "plain", "max_jobs": 1}  # quick to load, and writes no cache
        trial = config.model_copy(
            update={
                "engine": config.engine.model_copy(update=engine),
                "log": config.log.model_copy(update={"level": "ERROR"}),
                "voices": config.voices.model_copy(update={"dir": str(copied), "default": None, "aliases": {}}),
                "queue": config.queue.model_copy(update={"max_wait": SPEAKS_WITHIN_S}),
            }
        )
        why = "nothing"
        try:
            spoken = asyncio.run(_speak(trial))
            return [_judged(f"{name}, with plain kernels" if name == "qwen3" else name, spoken)]
        except* QwenTtsError as faults:
            why = str(first_error(faults))
        except* TimeoutError:
            why = f"nothing within {SPEAKS_WITHIN_S:g} s"
    return [error("speech", f"{name} does not speak: {why}", "fix the problems above and run this again")]


async def _speak(config: Config) -> SpokenSentence:
    live = LiveConfig(lambda: config)
    pool = make_pool(live)
    catalog = VoiceCatalog(pool.voices, config.voices, more_may_come=True)
    workers, silent = PoolTask(pool), asyncio.Event()
    workers.start()
    try:
        async with asyncio.timeout(SPEAKS_WITHIN_S), asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(workers.run_until(silent), name="workers")
            spoken = await _timed(Synthesizer(pool, live), catalog)
            watch.cancel()
            return spoken
    finally:
        await workers.stop()


async def _timed(speaker: Synthesizer, catalog: VoiceCatalog) -> SpokenSentence:
    """The second of two, since the first waits for the engine to load."""
    for _ in range(2):
        reply = speaker.reply(catalog.resolve(), "doctor")
        await reply.feed(SENTENCE)
        reply.end_text()
        began_s, first_s, audio_s = time.monotonic(), 0.0, 0.0
        async with aclosing(reply.pcm()) as audio:
            async for pcm in audio:
                first_s = first_s or time.monotonic() - began_s
                audio_s += len(pcm.samples) / 2 / pcm.rate
    return SpokenSentence(first_s, time.monotonic() - began_s, audio_s)


def _judged(who: str, spoken: SpokenSentence) -> Finding:
    text = (
        f"{who}: first audio after {spoken.first_audio_s * 1000:.0f} ms, {spoken.audio_s:.1f} s of audio in "
        f"{spoken.total_s:.2f} s"
    )
    if spoken.total_s > spoken.audio_s or spoken.first_audio_s > SLOW_S:
        remedy = "another program may use the GPU (nvidia-smi); else choose a 0.6B model (engine.model)"
        return warning("speech", f"{text}, slower than real time", remedy)
    return ok("speech", text)
