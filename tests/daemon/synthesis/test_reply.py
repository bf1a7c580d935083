import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest

from engine.ipc.messages import AppendText, EndText
from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.schema import Config, Text
from qwentts_daemon.errors import Code, SpeechError
from qwentts_daemon.synthesis.reply import SLICE_CHARS, Synthesizer
from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.workers.job import Job, Timing


async def test_feed_yields_to_other_tasks_during_long_text():
    reply = Synthesizer(None, LiveConfig(Config)).reply(SynthesisRequest("ryan"), "test")
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    await reply.feed("Another sentence. " * 277)
    other.cancel()
    assert turns >= 277 * 18 // SLICE_CHARS


class Pool:
    """An engine that speaks one sample for each character, and records the texts of its jobs."""

    def __init__(self, rates=(24_000,), crowded=False):
        self.texts = []
        self.turns = []
        self.crowded = crowded
        self.text_ended = asyncio.Event()
        self._rates = itertools.chain(rates, itertools.repeat(rates[-1]))

    def exceeds_share(self, client):
        return self.crowded

    @asynccontextmanager
    async def job(self, request, text, turn, again):
        job = Job(len(self.texts), Timing(0.0, 0.0), lambda command: self._receive(job, command), 10.0)
        job.started(next(self._rates), 0.0, 0.0)
        self.texts.append("")
        self.turns.append(turn)
        self._speak(job, text)
        yield job

    def _receive(self, job, command):
        match command:
            case AppendText(_, text):
                self._speak(job, text)
            case EndText():
                job.finish(0.0)
                self.text_ended.set()

    def _speak(self, job, text):
        self.texts[job.id] += text
        job.deliver(bytes(2 * len(text)))


def speaking(pool, **text):
    reply = Synthesizer(pool, LiveConfig(lambda: Config(text=Text(**text)))).reply(
        SynthesisRequest("ryan"), "10.0.0.1:4000", owner="10.0.0.1"
    )
    return reply, reply.pcm()


async def test_stalled_text_releases_its_slot_and_continues_in_another_job():
    pool = Pool()
    reply, audio = speaking(pool, stall=0.05)
    await reply.feed("One is here. ")
    await reply.feed("Two")
    assert len((await anext(audio)).samples) == 2 * len("One is here.")
    rest = asyncio.create_task(anext(audio))
    await pool.text_ended.wait()
    await reply.feed(" is here.")
    reply.end_text()
    assert len((await rest).samples) == 2 * len("Two is here.")
    assert [pcm async for pcm in audio] == []
    assert pool.texts == ["One is here.", "Two is here."]
    assert {turn.client for turn in pool.turns} == {"10.0.0.1"}


async def test_text_without_pause_is_one_job():
    pool = Pool()
    reply, audio = speaking(pool, stall=30)
    await reply.feed("One is here. Two is here. ")
    assert await anext(audio)
    await reply.feed("Three is here.")
    reply.end_text()
    assert [pcm async for pcm in audio]
    assert pool.texts == ["One is here. Two is here. Three is here."]


async def test_client_over_its_share_queues_again_for_more_text():
    pool = Pool(crowded=True)
    reply, audio = speaking(pool, stall=30)
    await reply.feed("One is here. Two")
    assert await anext(audio)
    await reply.feed(" is here. ")
    reply.end_text()
    assert [pcm async for pcm in audio]
    assert pool.texts == ["One is here.", "Two is here."]


async def test_later_job_with_another_sample_rate_ends_reply():
    reply, audio = speaking(Pool(rates=(24_000, 22_050), crowded=True))
    await reply.feed("One is here. Two")
    assert await anext(audio)
    await reply.feed(" is here. ")
    reply.end_text()
    with pytest.raises(SpeechError, match="not available any more") as failed:
        [pcm async for pcm in audio]
    assert failed.value.code == Code.ENGINE_UNAVAILABLE


async def test_reply_ends_when_engine_cuts_its_job():
    pool = Pool()
    reply, audio = speaking(pool, stall=30)
    await reply.feed("One is here. Two")
    assert await anext(audio)
    reply._job.finish(0.0, cut="too long")
    assert [pcm async for pcm in audio] == []
    await reply.feed(" is here. ")
    reply.end_text()
    assert pool.texts == ["One is here."]
