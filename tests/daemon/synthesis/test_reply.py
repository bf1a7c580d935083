import asyncio

from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.schema import Config
from qwentts_daemon.synthesis.reply import SLICE_CHARS, Synthesizer
from qwentts_daemon.voices.request import SynthesisRequest


async def test_feed_lets_other_tasks_run_between_slices_of_a_long_text():
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
