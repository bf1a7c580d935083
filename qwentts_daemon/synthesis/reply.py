"""Replies: stream text into one job of an engine worker and PCM out of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from ..audio.pcm import Pcm, Playback, silence
from ..config.live import LiveConfig
from ..config.schema import Text
from ..errors import Code, QwenTtsError, SpeechError, WorkerLost
from ..text.replacements import rule
from ..text.segmenter import CleaningOptions, Segmenter, separator
from ..voices.request import SynthesisRequest
from ..workers.job import Job
from ..workers.pool import WorkerPool
from ..workers.queue import Priority
from .stats import ReplyStats

NOTHING_TO_SAY_S = 0.1
DEFAULT_RATE = 22_050
COMFORT_CHUNK_S = 0.1
SLICE_CHARS = 256

log = logging.getLogger(__name__)


class Synthesizer:
    """Creates replies. All front ends of a daemon share one."""

    def __init__(self, pool: WorkerPool, live: LiveConfig) -> None:
        self.pool = pool
        self.live = live
        self.activity = ReplyStats()
        self._numbers = itertools.count(1)
        self._closed = False

    def reply(self, request: SynthesisRequest, client: str, priority: Priority = Priority.ASSIST) -> Reply:
        """Return a new reply, which starts when its `pcm` is read. Raises SpeechError after `close`."""
        if self._closed:
            raise SpeechError(Code.SHUTTING_DOWN, "this server is shutting down")
        return Reply(self, request, f"{client}/{next(self._numbers)}", priority)

    def close(self) -> None:
        """Refuse new replies. Running ones may finish."""
        self._closed = True


class Reply:
    """Speaks one text, which may still be arriving."""

    def __init__(self, synthesizer: Synthesizer, request: SynthesisRequest, name: str, priority: Priority) -> None:
        self.name = name
        self._config = synthesizer.live.current  # a reload affects later replies only
        self._synthesizer = synthesizer
        self._request = request
        self._priority = priority
        self._segmenter = Segmenter(cleaning(self._config.text))
        self._length = 0
        self._waiting: list[str] = []
        self._given = ""
        self._last_character = ""
        self._segments = 0
        self._ended = False
        self._job: Job | None = None
        self._changed = asyncio.Event()
        self._began_s = time.monotonic()
        self._playback = Playback()

    async def feed(self, text: str) -> None:
        """Append text, split anywhere. Raises SpeechError if the whole text exceeds `text.max_length`.

        Cleaning a long text takes a while, so other tasks get a turn after each slice of it.
        """
        self._length += len(text)
        limit = self._config.text.max_length
        if self._length > limit:
            raise SpeechError(Code.TEXT_TOO_LONG, f"the text is longer than {limit} characters (text.max_length)")
        for start in range(0, len(text), SLICE_CHARS):
            if start:
                await asyncio.sleep(0)
            self._pass_on(self._segmenter.feed(text[start : start + SLICE_CHARS]))

    def require_time(self) -> None:
        """Raise SpeechError if the text has been incomplete for longer than `text.timeout`."""
        limit_s = self._config.text.timeout
        if time.monotonic() - self._began_s > limit_s:
            raise SpeechError(Code.DEADLINE_EXCEEDED, f"the text has not ended after {limit_s:g} s (text.timeout)")

    def end_text(self) -> None:
        """Mark the text as complete."""
        self._pass_on(self._segmenter.end())
        self._ended = True
        if self._job:
            self._job.end_text()
        self._changed.set()

    async def pcm(self) -> AsyncGenerator[Pcm, None]:
        """Yield the audio: at least one item, all at one rate. Log one line at the end. Raises SpeechError."""
        result = "cancelled"
        try:
            async with aclosing(self._speech()) as speech:
                with self._synthesizer.activity.reply():
                    async for pcm in speech:
                        self._playback.add(pcm)
                        yield pcm
            result = "done"
        except QwenTtsError as error:
            result = f"failed: {error}"
            raise
        except Exception as error:
            result = f"failed: {type(error).__name__}"
            raise
        finally:
            self._report(result)

    async def _speech(self) -> AsyncGenerator[Pcm, None]:
        """Yield the audio of one job; of a second one when the first engine is lost before any audio."""
        while not (self._waiting or self._ended):
            await self._changed.wait()
        if not self._waiting:
            yield silence(DEFAULT_RATE, NOTHING_TO_SAY_S)
            return
        for again in (False, True):
            try:
                async with self._open_job(again) as job:
                    while (samples := await job.read(self._patience_s())) != b"":
                        for pcm in self._chunk(job, samples):
                            yield pcm
                    for pcm in self._ending(job):
                        yield pcm
                return
            except WorkerLost:
                if again or self._playback.rate:
                    raise
                self._job = None

    @asynccontextmanager
    async def _open_job(self, again: bool) -> AsyncIterator[Job]:
        """Open a job with all text so far. Text that arrives while it waits in the queue is appended."""
        self._take_text()
        async with self._synthesizer.pool.job(self._request, self._given, self._priority, again) as job:
            self._job = job
            if text := self._take_text():
                job.append(text)
            if self._ended:
                job.end_text()
            yield job

    def _chunk(self, job: Job, samples: bytes | None) -> list[Pcm]:
        """Return a chunk of the engine, with silence before the first; comfort silence when none came in time."""
        if samples is None:
            self._playback.comfort_s += COMFORT_CHUNK_S
            return [silence(job.rate, COMFORT_CHUNK_S)]
        self._playback.comfort_s = 0.0
        chunk, lead_s = Pcm(job.rate, samples), self._config.audio.lead_silence
        return [chunk] if self._playback.rate or not lead_s else [silence(job.rate, lead_s), chunk]

    def _ending(self, job: Job) -> list[Pcm]:
        """Return the silence after the last chunk, or a short silence if there was none."""
        if not job.samples:
            return [silence(job.rate or DEFAULT_RATE, NOTHING_TO_SAY_S)]
        tail_s = self._config.audio.tail_silence
        return [silence(job.rate, tail_s)] if tail_s else []

    def _patience_s(self) -> float | None:
        """Seconds until comfort silence is due, or None. Some satellites hang when a reply pauses for seconds."""
        audio = self._config.audio
        if not self._playback.rate or self._playback.comfort_s >= audio.stall_silence_max:
            return None
        pause_s = 0.0 if self._playback.comfort_s else audio.stall_silence
        return self._playback.left_s() + pause_s

    def _pass_on(self, segments: list[str]) -> None:
        if not segments:
            return
        self._segments += len(segments)
        self._waiting += segments
        if self._job:
            self._job.append(self._take_text())
        self._changed.set()

    def _take_text(self) -> str:
        """Remove and return the waiting segments, with the separators before and between them."""
        text = ""
        for segment in self._waiting:
            text += separator(self._last_character) + segment
            self._last_character = segment[-1]
        self._waiting.clear()
        self._given += text
        return text

    def _report(self, result: str) -> None:
        """Log one line with ids and figures, never the text."""
        job = self._job
        size = f"{self._length} characters in {self._segments} segments"
        if job is None:
            log.info("%s %s: %s, nothing spoken", self.name, result, size)
            return
        hops = self._hops(job) if self._playback.rate else "none"
        audio_s = job.samples / job.rate if job.rate else 0.0
        if job.samples and self._playback.rate:
            waited_s = self._playback.began_s - job.timing.requested_s
            self._synthesizer.activity.measured(waited_s, job.timing.busy_s / audio_s)
        cut = f", cut: {job.cut}" if job.cut else ""
        spoken = f"voice {self._request.voice}, {audio_s:.2f} s of audio, engine {job.timing.busy_s:.3f} s{cut}"
        log.info("%s %s: job %d, %s, %s, first audio ms [%s]", self.name, result, job.id, size, spoken, hops)

    def _hops(self, job: Job) -> str:
        """Format the time to the first audio by stage, in milliseconds."""
        timing = job.timing
        moments = {
            "queue": (self._began_s, timing.sent_s),
            "to worker": (timing.sent_s, timing.received_s),
            "engine": (timing.received_s, timing.made_s),
            "from worker": (timing.made_s, timing.arrived_s),
            "out": (timing.arrived_s, self._playback.began_s),
        }
        return ", ".join(f"{hop} {(after - before) * 1000:.2f}" for hop, (before, after) in moments.items())


def cleaning(text: Text) -> CleaningOptions:
    """Convert the configuration section to the cleaner's options."""
    return CleaningOptions(
        markdown=text.strip_markdown,
        emoji=text.strip_emoji,
        urls=text.strip_urls,
        code_blocks=text.strip_code_blocks,
        replacements=tuple(rule(each.regex, each.replace) for each in text.replacements),
    )
