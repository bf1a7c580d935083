"""eSpeak NG as a backend: the fallback voice, which needs neither a GPU nor a model.

It speaks about a thousand times faster than real time, so a step synthesizes and sends one whole clause of one job.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...installation import install_command
from ...ipc.messages import Chunk, Done, Event, Failed, Started, Synthesize, Voice
from ...ipc.settings import Settings
from . import BackendError, JobError
from .espeak_library import EspeakError, EspeakLibrary, SynthState
from .espeak_text import TextChunk, by_script, clean, cut
from .espeak_voices import STYLES, VOICES, EspeakVoice, voice_for_language, voice_with_id

_LOG = logging.getLogger(__name__)

_BUFFER_MS = 50
"""Length of one buffer of eSpeak, and so of a job's first chunk: 0.05 ms of work."""
_CHUNK_S = 0.2
"""Length of the later chunks: larger ones add no latency and save messages."""


class _Speech:
    """Turns eSpeak's buffers into a job's messages: the first at once, later ones larger.

    Silence at the end is retained until sound follows, so the speech never ends with a pause, however the text arrived.
    """

    def __init__(self, job: int, rate: int, received_s: float) -> None:
        self.samples = 0
        self._job = job
        self._rate = rate
        self._received_s = received_s
        self._pending = bytearray()
        self._silence = b""

    def take(self, pcm: bytes, send: Callable[[Event], None]) -> None:
        """Add PCM, at most one buffer of eSpeak."""
        self._pending += pcm
        if self.samples == 0 or len(self._pending) >= 2 * self._rate * _CHUNK_S:
            self.flush(send)

    def flush(self, send: Callable[[Event], None]) -> None:
        """Send the pending PCM without the silence at its end."""
        voiced = len(self._pending.rstrip(b"\0"))
        voiced += voiced % 2
        if voiced:
            self._emit(self._silence + bytes(self._pending[:voiced]), send)
            self._silence = b""
        self._silence += bytes(self._pending[voiced:])
        self._pending.clear()

    def drop_pause(self) -> None:
        """Drop the retained silence: the next piece belongs to the same clause."""
        self._silence = b""

    def _emit(self, pcm: bytes, send: Callable[[Event], None]) -> None:
        if self.samples == 0:
            send(Started(self._job, self._rate, self._received_s, time.monotonic()))
        send(Chunk(self._job, pcm))
        self.samples += len(pcm) // 2


@dataclass(slots=True)
class _EspeakJob:
    """The rest of a job's text, and the state of its speech."""

    voice: EspeakVoice
    variant: str
    received_s: float
    rest: str = ""
    pieces: deque[TextChunk] = field(default_factory=deque)
    ended: bool = False
    held: bool = False
    turn: int = 0
    speech: _Speech | None = None
    state: SynthState = field(default_factory=SynthState)
    busy_s: float = 0.0

    def extend(self, text: str, *, ended: bool) -> None:
        """Append text, and cut it at once: the result must not depend on when the next step is."""
        self.ended = ended
        complete, self.rest = cut(self.rest + clean(text), ended=ended)
        for piece in complete:
            self.pieces.extend(by_script(piece, self.voice.script))

    @property
    def ready(self) -> bool:
        return not self.held and (self.ended or bool(self.pieces))


class EspeakBackend:
    """Speaks many jobs in turn through one library. Of two backends loaded in a process only the last may be used."""

    description = "eSpeak NG"
    capacity = 32
    takes_new_voices = False
    step_limit_s = 0.0
    long_running = False

    def __init__(self, _settings: Settings | None = None) -> None:
        self._library: EspeakLibrary | None = None
        self._jobs: dict[int, _EspeakJob] = {}
        self._turn = 0

    def voices(self) -> tuple[Voice, ...]:
        """Return one voice for each language."""
        return tuple(voice.message for voice in VOICES)

    def load(self) -> None:
        """Load the library that the espeakng-loader package carries (5 ms). Raises BackendError."""
        try:
            loader = importlib.import_module("espeakng_loader")
        except ImportError as error:
            raise BackendError(
                f"the package espeakng-loader is missing: {install_command('espeak')}", permanent=True
            ) from error
        try:
            self._library = EspeakLibrary(Path(loader.get_library_path()), Path(loader.get_data_path()), _BUFFER_MS)
        except (OSError, RuntimeError, EspeakError) as error:
            reason = f"eSpeak NG cannot be loaded ({error}): {install_command('espeak')} --force-reinstall"
            raise BackendError(reason, permanent=True) from error
        self.description = f"eSpeak NG {self._library.version}"
        if not self._library.repeatable:
            _LOG.warning("this build of eSpeak NG hides its state: equal requests will differ inaudibly")

    def add(self, request: Synthesize) -> None:
        """Begin a job. Raises JobError: voice-not-found, language-not-supported."""
        voice = _voice_for(request)
        job = _EspeakJob(voice, _variant_for(request), time.monotonic())
        job.extend(request.text, ended=request.ended)
        self._jobs[request.job] = job

    def append(self, job: int, text: str) -> None:
        """Append text to an open job; ignore an unknown one."""
        if job in self._jobs:
            self._jobs[job].extend(text, ended=False)

    def end(self, job: int) -> None:
        """Mark the text of a job as complete."""
        if job in self._jobs:
            self._jobs[job].extend("", ended=True)

    def cancel(self, job: int) -> None:
        """Drop a job; ignore an unknown one."""
        self._jobs.pop(job, None)

    def hold(self, job: int, held: bool) -> None:
        """Pause a job while `held`."""
        if job in self._jobs:
            self._jobs[job].held = held

    def step(self, send: Callable[[Event], None]) -> bool:
        """Speak one piece of the job that waits longest, a new one first. Return whether more can be done now."""
        ready = [number for number, job in self._jobs.items() if job.ready]
        if not ready:
            return False
        number = min(ready, key=lambda number: self._jobs[number].turn)
        job = self._jobs[number]
        self._turn += 1
        job.turn = self._turn
        try:
            self._speak(number, job, send)
        except EspeakError as error:
            self._jobs.pop(number)
            send(Failed(number, "synthesis-failed", str(error)))
        return any(job.ready for job in self._jobs.values())

    def _speak(self, number: int, job: _EspeakJob, send: Callable[[Event], None]) -> None:
        assert self._library is not None, "step before load"
        begun_s = time.monotonic()
        if job.speech is None:
            job.speech = _Speech(number, self._library.rate, job.received_s)
        speech = job.speech
        if job.pieces:
            piece = job.pieces.popleft()
            name = (piece.reader or job.voice.espeak) + job.variant
            job.state = self._library.speak(name, piece.text, job.state, lambda pcm: speech.take(pcm, send))
            speech.flush(send)
            if not piece.pause:
                speech.drop_pause()
        job.busy_s += time.monotonic() - begun_s
        if job.ended and not job.pieces:
            self._jobs.pop(number)
            send(Done(number, speech.samples, job.busy_s))


def _voice_for(request: Synthesize) -> EspeakVoice:
    """Return the requested voice, or the voice of the requested language. Raises JobError."""
    voice = voice_with_id(request.voice)
    if voice is None:
        known = ", ".join(voice.id for voice in VOICES)
        raise JobError("voice-not-found", f"no voice {request.voice!r}; there are {known}")
    if not request.language:
        return voice
    spoken = voice_for_language(request.language, voice)
    if spoken is None:
        raise JobError("language-not-supported", f"eSpeak does not speak the language {request.language!r}")
    return spoken


def _variant_for(request: Synthesize) -> str:
    """Return the suffix of an eSpeak voice name for the requested style. Raises JobError."""
    if not request.style:
        return ""
    if request.style.lower() not in STYLES:
        raise JobError("voice-not-found", f"no style {request.style!r}; there are {', '.join(STYLES)}")
    return f"+{STYLES[request.style.lower()]}"
