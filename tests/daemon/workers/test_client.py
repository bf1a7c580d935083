"""Errors in the tasks of one worker: it is replaced, and the daemon continues."""

import asyncio
import logging
import sys

import pytest

from engine import host
from engine.ipc import channel
from qwentts_daemon.errors import Code, SpeechError, StartError
from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.workers.client import WorkerClient
from qwentts_daemon.workers.queue import Turn
from tests.support.fakes import tone
from tests.support.harness import daemon, running_pool, speak

RYAN = SynthesisRequest("ryan")


async def spoken(pool, text):
    async with pool.job(RYAN, text, Turn()) as job:
        job.end_text()
        pcm = b""
        while part := await job.read():
            pcm += part
        return pcm


async def test_worker_that_sends_an_unknown_message_is_replaced():
    with daemon("engine.fallback=false", fake="Garbling") as process:
        assert (await speak(process, "Now [garble] it.")).code == Code.ENGINE_UNAVAILABLE
        process.wait_for("qwentts-qwen3 sent what is not a message, and is replaced: .*Unknown is not a message")
        assert (await speak(process, "Again.")).pcm == b"".join(map(tone, "Again."))


async def test_unexpected_error_in_a_task_of_a_worker_replaces_it(monkeypatch, caplog):
    handle, errors = WorkerClient._handle, [RuntimeError("a fault of ours")]

    def faulty(self, event, health):
        if isinstance(event, channel.messages.Chunk) and errors:
            raise errors.pop()
        handle(self, event, health)

    monkeypatch.setattr(WorkerClient, "_handle", faulty)
    with caplog.at_level(logging.ERROR):
        async with running_pool("ToneBackend") as pool:
            with pytest.raises(SpeechError) as failed:
                await spoken(pool, "One.")
            assert failed.value.code == Code.ENGINE_UNAVAILABLE
            assert await spoken(pool, "Two.") == b"".join(map(tone, "Two."))
    (record,) = caplog.records
    assert record.getMessage() == "qwentts-qwen3 is replaced after an unexpected error"


async def test_worker_of_another_version_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(channel, "greeting", lambda: bytes(32))
    async with running_pool("ToneBackend") as pool:
        with pytest.raises(SpeechError, match=r"installed in another version.*restart the service"):
            await spoken(pool, "One.")
        with pytest.raises(StartError, match="restart the service"):
            await asyncio.wait_for(pool.run(), 60)


async def test_process_that_cannot_run_is_reported_with_the_remedy(monkeypatch):
    reported, lines = asyncio.Event(), []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())
            reported.set()

    handler = Handler(logging.ERROR)
    monkeypatch.setattr(host, "run_worker", sys.exit)
    logging.getLogger("qwentts_daemon").addHandler(handler)
    try:
        async with running_pool("ToneBackend"):
            await asyncio.wait_for(reported.wait(), 60)
    finally:
        logging.getLogger("qwentts_daemon").removeHandler(handler)
    assert lines[0].startswith("qwentts-qwen3 ended before it was running; after an upgrade")
