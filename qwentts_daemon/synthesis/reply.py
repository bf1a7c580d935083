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
from ..workers.queue import Priority, Turn
from .stats import ReplyStats

NOTHING_TO_SAY_S = 0.1
DEFAULT_RATE = 22_050
COMFORT_CHUNK_S = 0.1
SLICE_CHARS = 256
UNSPOKEN_FACTOR = 20
"""A text may have this many times `text.max_length` characters, of which the cleaner leaves most out."""

log = logging.getLogger(__name__)


class Synthesizer:
    """Creates replies. All front ends of a daemon share one."""

    def __init__(self, pool: WorkerPool, live: LiveConfig) -> None:
        self.pool = pool
        self.live = live
        self.activity = ReplyStats()
        self._numbers = itertools.count(1)
        self._closed = False

    def reply(
        self, request: SynthesisRequest, client: str, priority: Priority = Priority.ASSIST, owner: str | None = None
    ) -> Reply:
        """Return a new reply, which starts when its `pcm` is read. Raises SpeechError after `close`.

        client: how the log names it.
        owner: whose share of the engine it counts for, such as an address; default: `client`.
        """
        if self._closed:
            raise SpeechError(Code.SHUTTING_DOWN, "this server is shutting down")
        turn = Turn(priority, client if owner is None else owner)
        return Reply(self, request, f"{client}/{next(self._numbers)}", turn)

    def close(self) -> None:
        """Refuse new replies. Running ones may finish."""
        self._closed = True


class Reply:
    """Speaks one text, which may still be arriving.

    It is one job of an engine. When the text stalls, though, the job ends with the text so far and releases its slot;
    text that arrives later begins another job.
    """

    def __init__(self, synthesizer: Synthesizer, request: SynthesisRequest, name: str, turn: Turn) -> None:
        self.name = name
        self._config = synthesizer.live.current  # a reload affects later replies only
        self._synthesizer = synthesizer
        self._request = request
        self._turn = turn
        self._segmenter = Segmenter(cleaning(self._config.text))
        self._length = self._spoken = 0  # characters that have arrived, and those of the segments
        self._is_full = False
        self._waiting: list[str] = []
        self._given = ""  # the text of the present job
        self._last_character = ""
        self._segments = 0
        self._ended = False
        self._job: Job | None = None  # takes text
        self._jobs: list[Job] = []
        self._changed = asyncio.Event()
        self._began_s = self._progress_s = time.monotonic()
        self._playback = Playback()

    async def feed(self, text: str) -> None:
        """Append text, split anywhere. Raises SpeechError if not even its first sentence fits in `text.max_length`.

        Of a longer text the sentences that fit are spoken. Cleaning takes a while, so other tasks get a turn after each
        slice of the text.
        """
        for start in range(0, len(text), SLICE_CHARS):
            if self._is_full:
                return
            if start:
                await asyncio.sleep(0)
            part = text[start : start + SLICE_CHARS]
            self._length += len(part)
            self._pass_on(self._segmenter.feed(part))
            if self._length > UNSPOKEN_FACTOR * self._config.text.max_length:
                self._fill()

    def require_time(self) -> None:
        """Raise SpeechError if the text has been incomplete for longer than `text.timeout`."""
        limit_s = self._config.text.timeout
        if time.monotonic() - self._began_s > limit_s:
            raise SpeechError(Code.DEADLINE_EXCEEDED, f"the text has not ended after {limit_s:g} s (text.timeout)")

    def end_text(self) -> None:
        """Mark the text as complete."""
        if not self._is_full:
            self._pass_on(self._segmenter.end())
        self._ended = True
        self._end_job_text()
        self._changed.set()

    def _fill(self) -> None:
        """End the text here, as it is longer than `text.max_length`. Raises SpeechError if nothing of it fits."""
        limit = self._config.text.max_length
        if not self._segments:
            raise SpeechError(Code.TEXT_TOO_LONG, f"the text is longer than {limit} characters (text.max_length)")
        log.warning("%s: only the first %d characters are spoken (text.max_length: %d)", self.name, self._spoken, limit)
        self._is_full = True
        self.end_text()

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
        """Yield the audio of one job after another, with comfort silence while the text between them is awaited."""
        while True:
            while not (self._waiting or self._ended):
                if not await self._text_arrived(self._patience_s()):
                    yield self._comfort(self._playback.rate)
            if not self._waiting:
                break
            async with aclosing(self._job_audio()) as audio:
                async for pcm in audio:
                    yield pcm
        if not any(job.samples for job in self._jobs):
            yield silence(self._rate or DEFAULT_RATE, NOTHING_TO_SAY_S)
        elif tail_s := self._config.audio.tail_silence:
            yield silence(self._rate, tail_s)

    async def _job_audio(self) -> AsyncGenerator[Pcm, None]:
        """Yield the audio of one job; of a second one when the first engine is lost before any audio."""
        self._given = self._last_character = ""
        for again in (False, True):
            try:
                async with self._open_job(again) as job:
                    while (samples := await self._read(job)) != b"":
                        for pcm in self._chunk(job, samples):
                            yield pcm
                    if self._job:  # the engine has cut it before its text ended, and so the reply
                        self._waiting.clear()
                        self._ended = True
                return
            except WorkerLost:
                if again or self._playback.rate:
                    raise
                self._jobs.clear()
            finally:
                self._job = None

    @asynccontextmanager
    async def _open_job(self, again: bool) -> AsyncIterator[Job]:
        """Open a job with all text so far. Text that arrives while it waits in the queue is appended."""
        self._take_text()
        async with self._synthesizer.pool.job(self._request, self._given, self._turn, again) as job:
            self._job, self._progress_s = job, time.monotonic()
            self._jobs.append(job)
            if text := self._take_text():
                job.append(text)
            if self._ended:
                self._end_job_text()
            yield job

    async def _read(self, job: Job) -> bytes | None:
        """Return the next samples, b"" at the end, or None when comfort silence is due.

        A job that has neither produced audio nor received text for `text.stall` gets no more text.
        """
        while True:
            comfort_s, stall_s = self._patience_s(), self._stall_s()
            known = [seconds for seconds in (comfort_s, stall_s) if seconds is not None]
            samples = await job.read(min(known, default=None))
            if samples is not None:
                self._progress_s = time.monotonic()
                return samples
            if stall_s is None or (comfort_s is not None and comfort_s <= stall_s):
                return None
            self._end_job_text()

    def _stall_s(self) -> float | None:
        """Return the seconds until the text stalls, or None if the present job gets no more text."""
        if self._job is None:
            return None
        return max(0.0, self._progress_s + self._config.text.stall - time.monotonic())

    async def _text_arrived(self, patience_s: float | None) -> bool:
        """Wait for text or its end; return False if neither arrives within `patience_s`."""
        self._changed.clear()
        try:
            async with asyncio.timeout(patience_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _chunk(self, job: Job, samples: bytes | None) -> list[Pcm]:
        """Return a chunk of the engine, with silence before the first; comfort silence if it is late."""
        if samples is None:
            return [self._comfort(job.rate)]
        if self._playback.rate not in (0, job.rate):
            raise SpeechError(Code.ENGINE_UNAVAILABLE, "the engine that began this reply is not available any more")
        self._playback.comfort_s = 0.0
        chunk, lead_s = Pcm(job.rate, samples), self._config.audio.lead_silence
        return [chunk] if self._playback.rate or not lead_s else [silence(job.rate, lead_s), chunk]

    def _comfort(self, rate: int) -> Pcm:
        self._playback.comfort_s += COMFORT_CHUNK_S
        return silence(rate, COMFORT_CHUNK_S)

    @property
    def _rate(self) -> int:
        return max((job.rate for job in self._jobs), default=0)

    def _patience_s(self) -> float | None:
        """Seconds until comfort silence is due, or None. Some satellites hang when a reply pauses for seconds."""
        audio = self._config.audio
        if not self._playback.rate or self._playback.comfort_s >= audio.stall_silence_max:
            return None
        pause_s = 0.0 if self._playback.comfort_s else audio.stall_silence
        return self._playback.left_s() + pause_s

    def _pass_on(self, segments: list[str]) -> None:
        """Hand complete segments to the present job, or keep them for the next one. Raises SpeechError."""
        sizes = itertools.accumulate(map(len, segments), initial=self._spoken)
        limit = self._config.text.max_length
        fitting = sum(size <= limit for size in sizes) - 1
        self._append(segments[:fitting])
        if fitting < len(segments):
            self._fill()

    def _append(self, segments: list[str]) -> None:
        if not segments:
            return
        self._segments += len(segments)
        self._spoken += sum(map(len, segments))
        self._waiting += segments
        self._progress_s = time.monotonic()
        if self._job and self._synthesizer.pool.exceeds_share(self._turn.client):
            self._end_job_text()
        if self._job:
            self._job.append(self._take_text())
        self._changed.set()

    def _end_job_text(self) -> None:
        """Let the present job, if there is one, end with the text it has."""
        if self._job:
            self._job.end_text()
            self._job = None

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
        size = f"{self._length} characters in {self._segments} segments"
        if not self._jobs:
            log.info("%s %s: %s, nothing spoken", self.name, result, size)
            return
        first, rate, samples = self._jobs[0], self._rate, sum(job.samples for job in self._jobs)
        hops = self._hops(first) if self._playback.rate else "none"
        busy_s, audio_s = sum(job.timing.busy_s for job in self._jobs), samples / rate if rate else 0.0
        if samples and self._playback.rate:
            waited_s = self._playback.began_s - first.timing.requested_s
            self._synthesizer.activity.measured(waited_s, busy_s / audio_s)
        cut = next((f", cut: {job.cut}" for job in self._jobs if job.cut), "")
        spoken = f"voice {self._request.voice}, {audio_s:.2f} s of audio, engine {busy_s:.3f} s{cut}"
        ids = ", ".join(str(job.id) for job in self._jobs)
        log.info("%s %s: job %s, %s, %s, first audio ms [%s]", self.name, result, ids, size, spoken, hops)

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
        machine_text=text.strip_machine_text,
        sources=text.strip_sources,
        replacements=tuple(rule(each.regex, each.replace) for each in text.replacements),
    )
