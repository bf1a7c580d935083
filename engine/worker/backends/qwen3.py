"""Qwen3-TTS as a backend: several jobs at once, with streamed text and audio.

It imports nothing heavy before `load`: the daemon creates one only to list its voices, also before a download.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...acceleration.compile_cache import keep_compiled
from ...checkpoint.hub import DownloadInterrupted, find_checkpoint
from ...checkpoint.model_info import foresee_card, read_card
from ...installation import install_command
from ...ipc.messages import Chunk, Done, Event, Failed, Memory, Started, Synthesize, Voice, Voices
from ...ipc.settings import Settings
from ...model.config import SAMPLE_RATE, CheckpointError
from ...prompt.languages import PromptError, resolve_language
from ...voices.folder import MODEL_KINDS, FolderVoice, VoiceFolderError, signature
from ...voices.listing import list_voices
from . import BackendError, JobError

if TYPE_CHECKING:
    from ...scheduler.engine import ChunkOutput, GenerationRequest
    from .qwen3_loading import LoadedEngine

LOOK_INTERVAL_S = 1.0
MEMORY_INTERVAL_S = 10.0
WARM_UP_FRAMES = 32
WARM_VOICES = 64
CPU_STEP_LIMIT_S = 30.0
NO_MEMORY = "the GPU ran out of memory; close other programs that use it, or lower engine.max_jobs"
PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "huggingface_hub", "soundfile", "soxr", "xxhash")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Qwen3Job:
    """The state of a job that its messages report."""

    received_s: float
    samples: int = 0
    busy_s: float = 0.0
    held: bool = False


class Qwen3Backend:
    """Speaks with one checkpoint. Voices of the folder may be added and removed while it runs."""

    def __init__(self, settings: Settings) -> None:
        assert settings.model is not None, "the Qwen3 backend needs settings.model"
        self._model = settings.model
        self._folder = Path(settings.model.voices_dir).expanduser()
        cache = Path(settings.model.cache_dir).expanduser() if settings.model.cache_dir else None
        self._cache = cache
        self._card = foresee_card(settings.model.name, settings.model.revision, cache)
        self._listing = list_voices(self._card, self._folder)
        self._opened: LoadedEngine | None = None
        self._jobs: dict[int, _Qwen3Job] = {}
        self._reported: dict[str, str] = {}
        self._read = self._seen = signature(self._folder)
        self._next_look_s = self._next_memory_s = 0.0
        self.description = "Qwen3-TTS"
        self.capacity = settings.model.max_jobs
        self.step_limit_s = 0.0
        self.long_running = False
        self.takes_new_voices = self._card.kind in MODEL_KINDS.values()

    def voices(self) -> tuple[Voice, ...]:
        """Return the checkpoint's speakers, or the voices of the folder that fit its kind."""
        return self._listing.voices

    # --- loading ----------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Find or download the checkpoint, load it, and encode the cloned voices. Raises BackendError.

        The model stays loaded without a usable voice, because one may still be added.
        """
        began_s = time.monotonic()
        if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
            raise BackendError(f"not installed: {', '.join(missing)}; {install_command('engine')}", permanent=True)
        try:
            directory = self._find()
            self._listing = list_voices(self._card, self._folder)
            self._require_voices()
            keep_compiled(os.environ)
            from .qwen3_loading import open_engine

            self._opened = open_engine(directory, self._model)
            self.capacity = self._opened.pace.capacity
            self.step_limit_s = 0.0 if self._opened.on_gpu else CPU_STEP_LIMIT_S
            self._read_folder()
            self._warm_up()
            took_s = time.monotonic() - began_s
            self.description = f"{self._opened.description}, after {took_s:.1f} s{self._opened.memory_use()}"
        except ImportError as error:
            raise BackendError(
                f"a package is damaged or too old ({error}); {install_command('engine')}", permanent=True
            ) from error

    def _find(self) -> Path:
        model = self._model
        try:
            directory = find_checkpoint(model.name, revision=model.revision, offline=model.offline, cache=self._cache)
            self._card = read_card(directory)
        except CheckpointError as error:
            raise BackendError(str(error), permanent=not isinstance(error, DownloadInterrupted)) from error
        return directory

    def _require_voices(self) -> None:
        """Raise BackendError if a Base model does not have a cloned voice yet; loading is tried again later."""
        if self._listing.voices:
            return
        why = "".join(f" ({name}: {problem})" for name, problem in self._listing.problems.items())
        raise BackendError(
            f"{self._model.name} speaks with cloned voices only, and {self._folder} does not contain a usable one{why};"
            " make one: qwentts-daemon clone NAME --audio FILE"
        )

    def _warm_up(self) -> None:
        """Load the GPU's kernels and the voices' prompts before the first request."""
        opened = self._ready()
        if not opened.on_gpu:
            return
        try:
            for place, voice in enumerate(self._listing.voices[:WARM_VOICES]):
                self._speak_silently(voice.id, 1 if place else WARM_UP_FRAMES)
        except JobError as error:
            raise BackendError(f"{self._model.name}: {error}") from error
        except opened.out_of_memory as error:
            raise BackendError(f"{self._model.name}: not enough GPU memory to speak; lower engine.max_jobs") from error

    def _speak_silently(self, voice: str, frames: int) -> None:
        engine = self._ready().engine
        engine.add(0, self._utterance(Synthesize(0, voice)))
        engine.append_text(0, "One, two, three, four, five.")
        engine.end_text(0)
        for _ in range(frames):
            engine.step()
        engine.cancel(0)
        while engine.busy:
            engine.step()

    # --- jobs -------------------------------------------------------------------------------------------------

    def add(self, request: Synthesize) -> None:
        """Begin a job. Raises JobError: voice-not-found, language-not-supported, synthesis-failed."""
        engine = self._ready().engine
        engine.add(request.job, self._utterance(request))
        self._jobs[request.job] = _Qwen3Job(time.monotonic())
        engine.append_text(request.job, request.text)
        if request.ended:
            engine.end_text(request.job)

    def append(self, job: int, text: str) -> None:
        """More text for an open job; nothing for a job that is gone."""
        if job in self._jobs:
            self._ready().engine.append_text(job, text)

    def end(self, job: int) -> None:
        """Mark the text of a job as complete."""
        if job in self._jobs:
            self._ready().engine.end_text(job)

    def cancel(self, job: int) -> None:
        """Drop a job; ignore an unknown one."""
        self._jobs.pop(job, None)
        self._ready().engine.cancel(job)

    def hold(self, job: int, held: bool) -> None:
        """Make no audio for a job while `held`."""
        if job in self._jobs:
            self._jobs[job].held = held
            self._ready().engine.hold(job, held)

    def step(self, send: Callable[[Event], None]) -> bool:
        """One frame for every job that can make one; returns whether more can be done now."""
        opened = self._ready()
        self._look_at_folder(send)
        if not opened.engine.busy:
            self._report_memory(send)
            return False
        began_s = time.monotonic()
        try:
            made = opened.engine.step()
        except opened.out_of_memory as error:
            self._give_up(error, send)
            return opened.engine.busy
        took_s = time.monotonic() - began_s
        for job in self._jobs.values():
            job.busy_s += 0.0 if job.held else took_s
        for progress in made:
            self._pass_on(progress, send)
        return opened.engine.busy

    def _report_memory(self, send: Callable[[Event], None]) -> None:
        """Report the use of GPU memory between jobs."""
        if time.monotonic() < self._next_memory_s:
            return
        self._next_memory_s = time.monotonic() + MEMORY_INTERVAL_S
        if used_total := self._ready().memory_bytes():
            send(Memory(used_total[0]))

    def _pass_on(self, progress: ChunkOutput, send: Callable[[Event], None]) -> None:
        from ...voices.audio import float_to_pcm16

        number, job = progress.job, self._jobs[progress.job]
        if pcm := float_to_pcm16(progress.wave.numpy()):
            if not job.samples:
                send(Started(number, SAMPLE_RATE, job.received_s, time.monotonic()))
            job.samples += len(pcm) // 2
            send(Chunk(number, pcm))
        if not progress.ended:
            return
        del self._jobs[number]
        if progress.failed:
            send(Failed(number, "synthesis-failed", self._why(progress.failed)))
        else:
            send(Done(number, job.samples, job.busy_s, progress.cut.value if progress.cut else None))

    def _why(self, error: Exception) -> str:
        """Return the reason for the user why a job could not begin."""
        if not isinstance(error, MemoryError):
            return str(error)
        self._ready().free_memory()
        return NO_MEMORY

    def _give_up(self, error: Exception, send: Callable[[Event], None]) -> None:
        """Handle an out-of-memory error: fail the jobs of that step; the others and the model are not affected."""
        opened = self._ready()
        lost = [number for number, job in self._jobs.items() if not job.held]
        log.error("out of GPU memory with %d jobs (engine.max_jobs): %s", len(lost), str(error).splitlines()[0])
        for number in lost:
            self.cancel(number)
            send(Failed(number, "synthesis-failed", NO_MEMORY))
        opened.free_memory()

    def _ready(self) -> LoadedEngine:
        assert self._opened is not None, "a job before load"
        return self._opened

    # --- voices -----------------------------------------------------------------------------------------------

    def _utterance(self, request: Synthesize) -> GenerationRequest:
        """Return the generation request for a job. Raises JobError."""
        planner = self._ready().loaded.planner
        if request.voice not in {voice.id for voice in self._listing.voices}:
            known = ", ".join(voice.id for voice in self._listing.voices)
            raise JobError("voice-not-found", f"no voice {request.voice!r}; there are {known}")
        try:
            resolve_language(request.language, planner.ids.languages)
        except PromptError as error:
            raise JobError("language-not-supported", str(error)) from error
        try:
            return self._planned(request, self._listing.folder.get(request.voice))
        except PromptError as error:
            raise JobError("synthesis-failed", str(error)) from error
        except self._ready().out_of_memory as error:
            raise JobError("synthesis-failed", NO_MEMORY) from error

    def _planned(self, request: Synthesize, voice: FolderVoice | None) -> GenerationRequest:
        from ...runtime.prefill import VoiceVectors
        from ...scheduler.engine import GenerationRequest

        opened = self._ready()
        planner, language = opened.loaded.planner, request.language
        vectors, primed = VoiceVectors(), None
        if voice is None:
            plan = planner.custom_voice(request.voice, language, _instruct(request, None))
        elif voice.kind == "design":
            plan = planner.voice_design(_instruct(request, voice), language)
        else:
            prompt, primed = opened.clones.prompt(voice.name), opened.clones.primed(voice.name)
            plan, vectors = planner.clone(prompt.clone, language), prompt.vectors
        return GenerationRequest(plan, opened.sampling, vectors, primed, trim_silence=self._model.trim_silence)

    def _look_at_folder(self, send: Callable[[Event], None]) -> None:
        """Read the folder again once it has changed and then stayed the same for one interval: copying takes time."""
        if time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + LOOK_INTERVAL_S
        before, self._seen = self._seen, signature(self._folder)
        if before != self._seen or self._seen == self._read:
            return
        known, self._read = self._listing.voices, self._seen
        self._read_folder()
        if self._listing.voices != known:
            log.info("%d voices now: %s", len(self.voices()), ", ".join(voice.id for voice in self.voices()))
            send(Voices(self._listing.voices))

    def _read_folder(self) -> None:
        """Encode new voices of the folder; log each problem once."""
        listing, unusable = list_voices(self._card, self._folder), {}
        self.long_running = True  # a CPU needs half a minute to encode a voice
        for voice in listing.folder.values():
            if voice.kind == "clone":
                try:
                    self._ready().clones.learn(voice)
                except VoiceFolderError as error:
                    unusable[voice.name] = str(error)
        self.long_running = False
        self._listing = listing.without(unusable)
        self._report(self._listing.problems)

    def _report(self, problems: dict[str, str]) -> None:
        for name, problem in problems.items():
            if self._reported.get(name) != problem:
                log.warning("the voice %s is skipped: %s", name, problem)
        self._reported = dict(problems)


def _instruct(request: Synthesize, voice: FolderVoice | None) -> str | None:
    """Return the instruction: the words of the voice, of its style, and of the request, joined."""
    own = voice.styles.get(request.style or "") if voice else None
    if request.style and not (own or request.instruct):
        raise JobError("voice-not-found", f"the voice {request.voice} does not have the style {request.style!r}")
    words = (voice.instruct if voice else None, own, request.instruct)
    return " ".join(word for word in words if word) or None
