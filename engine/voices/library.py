"""Cloned voices of a loaded Base model: encoded once, then cached on disk beside the recording."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.hub import CODEC_WEIGHTS_FILE, WEIGHTS_FILE
from ..checkpoint.loaded import LoadedCheckpoint
from ..model.streaming import CodecSnapshot
from ..prompt.planner import content_digest
from ..runtime.model_runner import Runner
from .audio import AudioError, AudioLimits, read_audio, resample, to_mono
from .folder import FolderVoice, VoiceFolderError
from .prompt import PrimedVoices, VoicePrompt, VoicePromptError, make_voice_prompt
from .recording_check import check_recording

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _EncodedVoice:
    digest: str
    prompt: VoicePrompt


class ClonedVoices:
    """Voice prompts by name. Call `learn` before `prompt`."""

    def __init__(self, loaded: LoadedCheckpoint, runner: Runner) -> None:
        self._model = loaded.model
        self._weights = _identity(loaded.directory)
        self._encoded: dict[str, _EncodedVoice] = {}
        self._primed = PrimedVoices(runner.prime)

    def learn(self, voice: FolderVoice) -> None:
        """Encode a voice, unless its recording is in memory or in the disk cache. Raises VoiceFolderError."""
        assert voice.recording is not None, voice.name
        digest = self._digest(voice, voice.recording)
        known = self._encoded.get(voice.name)
        if known is None or known.digest != digest:
            prompt = self._cached(voice.recording, digest) or self._encode(voice, digest)
            self._encoded[voice.name] = _EncodedVoice(digest, prompt)

    def prompt(self, name: str) -> VoicePrompt:
        return self._encoded[name].prompt

    def primed(self, name: str) -> CodecSnapshot | None:
        """Return the codec's state after the voice's reference; None without a reference to continue."""
        return self._primed.get(self.prompt(name))

    def _digest(self, voice: FolderVoice, recording: Path) -> str:
        limit = AudioLimits().max_bytes
        try:
            with recording.open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise VoiceFolderError(f"{recording}: {error.strerror or error}") from error
        if len(data) > limit:
            raise VoiceFolderError(f"{recording}: is larger than {limit} bytes")
        return content_digest(data, (voice.transcript or "").encode(), self._weights)

    def _cached(self, recording: Path, digest: str) -> VoicePrompt | None:
        try:
            return VoicePrompt.load(_cache_file(recording, digest))
        except (FileNotFoundError, VoicePromptError):
            return None

    def _encode(self, voice: FolderVoice, digest: str) -> VoicePrompt:
        assert voice.recording is not None, voice.name
        try:
            samples, rate = read_audio(voice.recording)
            if faults := [found.message for found in check_recording(samples, rate) if found.level == "error"]:
                raise VoiceFolderError(f"{voice.recording}: {'; '.join(faults)}")
            prompt = make_voice_prompt(self._model, resample(to_mono(samples), rate), voice.transcript)
        except (AudioError, VoicePromptError) as error:
            raise VoiceFolderError(f"{voice.recording}: {error}") from error
        except torch.cuda.OutOfMemoryError as error:
            raise VoiceFolderError(f"{voice.recording}: not enough GPU memory to encode it; shorten it") from error
        _save(prompt, voice.recording, digest)
        return prompt


def _identity(directory: Path) -> bytes:
    """Identify the weights without reading them: resolved path, size and modification time of each file."""
    files = [(directory / name).resolve() for name in (WEIGHTS_FILE, CODEC_WEIGHTS_FILE)]
    return repr([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]).encode()


def _cache_file(recording: Path, digest: str) -> Path:
    return recording.with_name(f".prompt-{digest}.npz")


def _save(prompt: VoicePrompt, recording: Path, digest: str) -> None:
    """Save the prompt in place of older ones; failing that, the voice is encoded at each start, which is logged."""
    try:
        for old in recording.parent.glob(".prompt-*.npz"):
            old.unlink()
        prompt.save(_cache_file(recording, digest))
    except OSError as error:
        log.info("%s: its voice prompt is not kept: %s", recording.parent, error)
