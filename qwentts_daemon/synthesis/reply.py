"""One reply: text goes in as it comes, PCM comes out as it is made, in one job of one engine worker."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from ..config.live import LiveConfig
from ..config.schema import Text
from ..errors import Code, QwenTtsError, SpeechError, WorkerLost
from ..text.segmenter import CleaningOptions, Segmenter, separator
from ..workers.job import Job, SynthesisRequest
from ..workers.pool import WorkerPool
from ..workers.queue import Priority
from .stats import ReplyStats

NOTHING_TO_SAY_S = 0.1
DEFAULT_RATE = 22_050
COMFORT_CHUNK_S = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pcm:
    """Mono signed 16-bit little-endian samples at `rate` Hz."""

    rate: int
    samples: bytes


class Synthesizer:
    """Makes replies; one for all front ends of a daemon."""

    def __init__(self, pool: WorkerPool, live: LiveConfig) -> None:
        self.pool = pool
        self.live = live
        self.activity = ReplyStats()
        self._numbers = itertools.count(1)
        self._closed = False

    def reply(self, request: SynthesisRequest, client: str, priority: Priority = Priority.ASSIST) -> Reply:
        """A new reply; nothing happens until its `pcm` is read. Raises SpeechError after `close`."""
        if self._closed:
            raise SpeechError(Code.SHUTTING_DOWN, "this server is shutting down")
        return Reply(self, request, f"{client}/{next(self._numbers)}", priority)

    def close(self) -> None:
        """Begin no more replies; those that run may finish."""
        self._closed = True


class Reply:
    """A text that becomes speech while it is still arriving."""

    def __init__(self, speaker: Synthesizer, request: SynthesisRequest, name: str, priority: Priority) -> None:
        self.name = name
        self._config = speaker.live.now  # a reload is for the replies after it
        self._speaker = speaker
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

    def feed(self, text: str) -> None:
        """More text, split anywhere. Raises SpeechError when the whole is too long."""
        self._length += len(text)
        limit = self._config.text.max_length
        if self._length > limit:
            raise SpeechError(Code.TEXT_TOO_LONG, f"the text is longer than {limit} characters (text.max_length)")
        self._pass_on(self._segmenter.feed(text))

    def require_time(self) -> None:
        """Raises SpeechError when the text has been coming for too long."""
        limit_s = self._config.text.timeout
        if time.monotonic() - self._began_s > limit_s:
            raise SpeechError(Code.DEADLINE_EXCEEDED, f"the text has not ended after {limit_s:g} s (text.timeout)")

    def end_text(self) -> None:
        """The text is complete."""
        self._pass_on(self._segmenter.end())
        self._ended = True
        if self._job:
            self._job.end_text()
        self._changed.set()

    async def pcm(self) -> AsyncGenerator[Pcm, None]:
        """The audio, at least one item, all of one rate. Raises SpeechError; logs one line at the end."""
        result = "cancelled"
        try:
            async with aclosing(self._speech()) as speech:
                with self._speaker.activity.reply():
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
        while not (self._waiting or self._ended):
            await self._changed.wait()
        if not self._waiting:
            yield silence(DEFAULT_RATE, NOTHING_TO_SAY_S)
            return
        try:
            async with aclosing(self._in_one_job()) as spoken:
                async for pcm in spoken:
                    yield pcm
        except WorkerLost:
            if self._playback.rate:
                raise
            self._job = None
            async with aclosing(self._in_one_job(again=True)) as spoken:
                async for pcm in spoken:
                    yield pcm

    async def _in_one_job(self, again: bool = False) -> AsyncGenerator[Pcm, None]:
        """The whole text; `again`, when an engine was lost before anything was heard of it."""
        self._take_text()
        async with self._speaker.pool.job(self._request, self._given, self._priority, again) as job:
            self._attach(job)
            async with aclosing(self._spoken(job)) as spoken:
                async for pcm in spoken:
                    yield pcm

    def _attach(self, job: Job) -> None:
        self._job = job
        if text := self._take_text():  # it came while the job waited for its turn
            job.append(text)
        if self._ended:
            job.end_text()

    async def _spoken(self, job: Job) -> AsyncGenerator[Pcm, None]:
        audio = self._config.audio
        while (samples := await job.read(self._patience_s())) != b"":
            if samples is None:
                self._playback.comfort_s += COMFORT_CHUNK_S
                yield silence(job.rate, COMFORT_CHUNK_S)
                continue
            if not self._playback.rate and audio.lead_silence:
                yield silence(job.rate, audio.lead_silence)
            self._playback.comfort_s = 0.0
            yield Pcm(job.rate, samples)
        if not job.samples:
            yield silence(job.rate or DEFAULT_RATE, NOTHING_TO_SAY_S)
        elif audio.tail_silence:
            yield silence(job.rate, audio.tail_silence)

    def _patience_s(self) -> float | None:
        """Until when comfort silence is due: some satellites hang when a reply pauses for seconds."""
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
        """The segments that wait, with the blanks that belong before and between them."""
        text = ""
        for segment in self._waiting:
            text += separator(self._last_character) + segment
            self._last_character = segment[-1]
        self._waiting.clear()
        self._given += text
        return text

    def _report(self, result: str) -> None:
        """The one line a reply leaves in the log: ids and figures, never its text."""
        job = self._job
        size = f"{self._length} characters in {self._segments} segments"
        if job is None:
            log.info("%s %s: %s, nothing spoken", self.name, result, size)
            return
        hops = self._hops(job) if self._playback.rate else "none"
        audio_s = job.samples / job.rate if job.rate else 0.0
        if job.samples and self._playback.rate:
            waited_s = self._playback.began_s - job.timing.requested_s
            self._speaker.activity.measured(waited_s, job.timing.busy_s / audio_s)
        cut = f", cut: {job.cut}" if job.cut else ""
        spoken = f"voice {self._request.voice}, {audio_s:.2f} s of audio, engine {job.timing.busy_s:.3f} s{cut}"
        log.info("%s %s: job %d, %s, %s, first audio ms [%s]", self.name, result, job.id, size, spoken, hops)

    def _hops(self, job: Job) -> str:
        """Where the time to the first audio went, in milliseconds."""
        timing = job.timing
        moments = {
            "queue": (self._began_s, timing.sent_s),
            "to worker": (timing.sent_s, timing.received_s),
            "engine": (timing.received_s, timing.made_s),
            "from worker": (timing.made_s, timing.arrived_s),
            "out": (timing.arrived_s, self._playback.began_s),
        }
        return ", ".join(f"{hop} {(after - before) * 1000:.2f}" for hop, (before, after) in moments.items())


class Playback:
    """What a client that plays at once has left to play."""

    def __init__(self) -> None:
        self.rate = 0
        self.began_s = 0.0
        self.comfort_s = 0.0
        self._until_s = 0.0

    def add(self, pcm: Pcm) -> None:
        """More has been handed out."""
        now_s = time.monotonic()
        if not self.rate:
            self.rate, self.began_s = pcm.rate, now_s
        self._until_s = max(self._until_s, now_s) + len(pcm.samples) / 2 / pcm.rate

    def left_s(self) -> float:
        """Seconds until the client has nothing more to play."""
        return max(0.0, self._until_s - time.monotonic())


def silence(rate: int, seconds: float) -> Pcm:
    """That much of nothing."""
    return Pcm(rate, bytes(2 * round(rate * seconds)))


def cleaning(text: Text) -> CleaningOptions:
    """The config's switches as the cleaner takes them."""
    return CleaningOptions(
        markdown=text.strip_markdown,
        emoji=text.strip_emoji,
        urls=text.strip_urls,
        code_blocks=text.strip_code_blocks,
        replacements=tuple((re.compile(rule.regex), rule.replace) for rule in text.replacements),
    )
