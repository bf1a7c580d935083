"""Cloned voices: computed from a recording once, saved as files, and primed for an engine."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from ..model.speech_model import SpeechModel
from ..model.streaming import CodecSnapshot
from ..prompt.planner import CloneVoice, Reference, content_digest
from ..runtime.prefill import VoiceVectors
from .audio import RATE, Samples
from .mel import log_mel

FORMAT = 1
SHORTEST_SAMPLES = RATE // 10
PRIMED_VOICES = 8


class VoicePromptError(Exception):
    """A voice prompt cannot be made or read."""


@dataclass(frozen=True, slots=True, eq=False)
class VoicePrompt:
    """x-vector float32 [H] and, for in-context cloning, the reference's codes int64 [frames, 16] and transcript."""

    speaker: Tensor
    codes: Tensor | None = None
    text: str | None = None

    @property
    def clone(self) -> CloneVoice:
        """The voice for the prompt planner: content by digest."""
        speaker = _digest(self.speaker)
        if self.codes is None or self.text is None:
            return CloneVoice(speaker)
        return CloneVoice(speaker, Reference(self.text, len(self.codes), _digest(self.codes)))

    @property
    def vectors(self) -> VoiceVectors:
        """The voice for the runner: the content itself."""
        return VoiceVectors(self.speaker, self.codes)

    def save(self, path: Path) -> None:
        """Write the prompt to a file atomically. Raises OSError."""
        codes = np.empty((0, 16), np.int64) if self.codes is None else self.codes.cpu().numpy()
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.touch(0o600)  # a voice is personal data
        try:
            with partial.open("wb") as file:
                speaker = self.speaker.float().cpu().numpy()
                np.savez(file, format=FORMAT, speaker=speaker, codes=codes, text=self.text or "")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> VoicePrompt:
        """Read a file written by `save`. Raises VoicePromptError, FileNotFoundError."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                if int(kept["format"]) != FORMAT:
                    raise VoicePromptError(f"{path}: format {kept['format']} is not {FORMAT}")
                codes, text = torch.from_numpy(kept["codes"]), str(kept["text"])
                return cls(torch.from_numpy(kept["speaker"]), codes if len(codes) else None, text or None)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise VoicePromptError(f"{path}: not a voice prompt ({error})") from error


@torch.inference_mode()
def make_voice_prompt(model: SpeechModel, samples: Samples, text: str | None) -> VoicePrompt:
    """Encode a recording, float32 [samples] mono at 24 kHz; with its transcript `text` also for in-context cloning.

    Raises VoicePromptError for a recording below 0.1 s, and for a checkpoint without encoders (not a Base model).
    """
    if model.speaker_encoder is None or model.encoder is None:
        raise VoicePromptError("this checkpoint cannot clone a voice; a Qwen3-TTS Base model can")
    if len(samples) < SHORTEST_SAMPLES:
        raise VoicePromptError(f"the recording is too short: {len(samples) / RATE:.3f} s")
    device = model.talker.head.weight.device
    wave = torch.from_numpy(samples)[None]
    speaker = model.speaker_encoder(log_mel(wave, RATE).to(device))[0].float().cpu()
    codes = model.encoder(wave.to(device))[0].T.cpu() if text is not None else None
    return VoicePrompt(speaker, codes, text)


class PrimedVoices:
    """Codec states after the references of the voices used last, so that a text need not decode these again.

    A state takes 5 MB on the device and fits one engine only. Thread-safe.
    """

    def __init__(self, prime: Callable[[Tensor], CodecSnapshot], size: int = PRIMED_VOICES) -> None:
        """`prime` decodes codes [frames, 16] and returns the state after them."""
        self._prime = prime
        self._states: LRUCache[str, CodecSnapshot] = LRUCache(size)
        self._lock = threading.Lock()

    def get(self, voice: VoicePrompt) -> CodecSnapshot | None:
        """Return the state for a voice; None for a voice without a reference to continue."""
        reference = voice.clone.reference
        if reference is None or voice.codes is None:
            return None
        with self._lock:
            state = self._states.get(reference.digest)
        if state is None:
            state = self._prime(voice.codes)  # without the lock: it may wait for a step of the engine
            with self._lock:
                self._states[reference.digest] = state
        return state


def _digest(tensor: Tensor) -> str:
    array = tensor.cpu().contiguous().numpy()
    return content_digest(str((array.dtype, array.shape)).encode(), array.tobytes())
