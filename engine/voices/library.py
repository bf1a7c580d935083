"""Cloned voices of a loaded Base model: heard once, then kept on disk beside the recording, ready to speak."""

from __future__ import annotations

import logging
from collections import OrderedDict
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
from .prompt import VoicePrompt, VoicePromptError, make_voice_prompt
from .recording_check import check_recording

PRIMED_VOICES = 8
"""Codec states kept on the device, 5 MB each; one more costs a fraction of a second when it is used again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    digest: str
    prompt: VoicePrompt


class ClonedVoices:
    """Voice prompts by name. `learn` before `prompt`."""

    def __init__(self, loaded: LoadedCheckpoint, runner: Runner) -> None:
        self._model = loaded.model
        self._runner = runner
        self._weights = _identity(loaded.directory)
        self._heard: dict[str, _Heard] = {}
        self._primed: OrderedDict[str, CodecSnapshot] = OrderedDict()

    def learn(self, voice: FolderVoice) -> None:
        """Hear a voice, unless this recording has been heard before. Raises VoiceFolderError."""
        assert voice.recording is not None, voice.name
        digest = self._digest(voice, voice.recording)
        known = self._heard.get(voice.name)
        if known is None or known.digest != digest:
            self._heard[voice.name] = _Heard(digest, self._kept(voice.recording, digest) or self._hear(voice, digest))

    def prompt(self, name: str) -> VoicePrompt:
        return self._heard[name].prompt

    def primed(self, name: str) -> CodecSnapshot | None:
        """The codec's state after the reference, where the prompt continues one."""
        heard = self._heard[name]
        if heard.prompt.codes is None:
            return None
        snapshot = self._primed.pop(heard.digest, None)
        self._primed[heard.digest] = snapshot or self._runner.prime(heard.prompt.codes)
        if len(self._primed) > PRIMED_VOICES:
            self._primed.popitem(last=False)
        return self._primed[heard.digest]

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

    def _kept(self, recording: Path, digest: str) -> VoicePrompt | None:
        try:
            return VoicePrompt.load(_cache_file(recording, digest))
        except (FileNotFoundError, VoicePromptError):
            return None

    def _hear(self, voice: FolderVoice, digest: str) -> VoicePrompt:
        assert voice.recording is not None, voice.name
        try:
            samples, rate = read_audio(voice.recording)
            if faults := [found.message for found in check_recording(samples, rate) if found.level == "error"]:
                raise VoiceFolderError(f"{voice.recording}: {'; '.join(faults)}")
            prompt = make_voice_prompt(self._model, resample(to_mono(samples), rate), voice.transcript)
        except (AudioError, VoicePromptError) as error:
            raise VoiceFolderError(f"{voice.recording}: {error}") from error
        except torch.cuda.OutOfMemoryError as error:
            raise VoiceFolderError(f"{voice.recording}: not enough GPU memory to hear it; shorten it") from error
        _keep(prompt, voice.recording, digest)
        return prompt


def _identity(directory: Path) -> bytes:
    """Which weights these are, without reading gigabytes: where the files really lie, their size and age."""
    files = [(directory / name).resolve() for name in (WEIGHTS_FILE, CODEC_WEIGHTS_FILE)]
    return repr([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]).encode()


def _cache_file(recording: Path, digest: str) -> Path:
    return recording.with_name(f".prompt-{digest}.npz")


def _keep(prompt: VoicePrompt, recording: Path, digest: str) -> None:
    """Save the prompt in the place of older ones. A folder that cannot be written to costs time at the next start."""
    try:
        for old in recording.parent.glob(".prompt-*.npz"):
            old.unlink()
        prompt.save(_cache_file(recording, digest))
    except OSError as error:
        log.info("%s: its voice prompt is not kept: %s", recording.parent, error)
