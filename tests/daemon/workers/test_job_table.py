"""The jobs of a worker: commands out, events in."""

import pytest

from engine.ipc.messages import AppendText, Cancel, Chunk, Done, EndText, Failed, Hold, Started, Synthesize
from qwentts_daemon.errors import Code, SpeechError, WorkerLost
from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.workers.job import HOLD_ABOVE_BYTES
from qwentts_daemon.workers.job_table import JobTable

RYAN = SynthesisRequest("ryan", "de-DE", "soft", "Slowly.")
TIMEOUT_S = 10.0
PCM = bytes(480)


@pytest.fixture
def sent():
    return []


@pytest.fixture
def table(sent):
    return JobTable(sent.append)


def open_job(table):
    return table.open(RYAN, "Hello.", 0.0, TIMEOUT_S)


async def test_job_table_passes_text_out_and_audio_in(table, sent):
    with open_job(table) as job:
        job.append(" And more.")
        job.end_text()
        for event in (Started(1, 24_000, 1.0, 2.0), Chunk(1, PCM), Done(1, 240, 0.5, "silence")):
            table.dispatch(event)
        assert await job.read() == PCM
        assert await job.read() == b""
    assert (job.rate, job.samples, job.cut, job.timing.busy_s) == (24_000, 240, "silence", 0.5)
    begun = Synthesize(1, "ryan", "Hello.", False, "de-DE", "soft", "Slowly.")
    assert sent == [begun, AppendText(1, " And more."), EndText(1)]


async def test_job_table_passes_a_failure_on(table):
    with open_job(table) as job:
        table.dispatch(Failed(1, Code.VOICE_NOT_FOUND, "no such voice"))
        with pytest.raises(SpeechError, match="no such voice"):
            await job.read()


async def test_job_table_cancels_an_unfinished_job_and_drops_its_late_events(table, sent):
    with open_job(table):
        pass
    table.dispatch(Chunk(1, PCM))
    assert sent[1:] == [Cancel(1)]
    with open_job(table) as job:
        assert job.id == 2
        table.dispatch(Chunk(1, PCM))
        assert job.samples == 0


@pytest.mark.parametrize("has_fallback", [True, False])
async def test_job_table_fail_passes_silent_jobs_to_fallback(table, sent, has_fallback):
    with open_job(table) as silent, open_job(table) as heard, open_job(table) as done:
        table.dispatch(Chunk(heard.id, PCM))
        table.dispatch(Done(done.id, 0, 0.1))
        table.fail("it is gone", has_fallback)
        assert await heard.read() == PCM, "what has come is not lost"
        with pytest.raises(SpeechError, match="it is gone"):
            await heard.read()
        with pytest.raises(SpeechError) as failed:
            await silent.read()
        assert isinstance(failed.value, WorkerLost) == has_fallback
        assert await done.read() == b""
    assert sent[3:] == [Cancel(silent.id), Cancel(heard.id)]


async def test_job_table_fail_only_silent_leaves_a_job_with_audio(table):
    with open_job(table) as silent, open_job(table) as heard:
        table.dispatch(Chunk(heard.id, PCM))
        table.fail("it is slow", has_fallback=True, only_silent=True)
        assert (silent.finished, heard.finished) == (True, False)


async def test_job_pauses_its_worker_while_its_reader_does_not_read(table, sent):
    with open_job(table) as job:
        half = bytes(HOLD_ABOVE_BYTES // 2)
        for _ in range(3):
            table.dispatch(Chunk(1, half))
        assert sent[1:] == [Hold(1, True)]
        for _ in range(3):
            await job.read()
        assert sent[2:] == [Hold(1, False)]


def test_job_table_measures_silence_from_the_first_job_after_a_rest(table, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("qwentts_daemon.workers.job_table.time.monotonic", lambda: clock[0])
    with open_job(table):
        clock[0] += 5
        assert table.silent_s == 5
        with open_job(table):
            assert table.silent_s == 5, "the first has waited for longer"
        table.dispatch(Chunk(1, PCM))
        assert table.silent_s == 0
    clock[0] += 60
    with open_job(table):
        assert table.silent_s == 0
