"""What tests of the natural voice share: settings for tiny checkpoints, a folder of voices, the engine's own answer."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
import yaml

from engine.checkpoint.loaded import LoadedCheckpoint, load_checkpoint
from engine.ipc.messages import Chunk, Synthesize
from engine.ipc.settings import ModelSettings, Settings
from engine.prompt.planner import PromptPlan
from engine.prompt.sampling_params import resolve_sampling
from engine.runtime.model_runner import Runner
from engine.scheduler.engine import Engine, GenerationRequest
from engine.voices.audio import float_to_pcm16, load_audio
from engine.voices.prompt import make_voice_prompt
from tests.engine.support.random_inputs import sound
from tests.engine.support.tiny_models import FLOAT32, tiny_directory

SAMPLING = {"max_new_tokens": 14, "seed": 7}
TEXT = "hello world, the door is open"


def settings(voices: Path, kind: str = "custom_voice", **changed: object) -> Settings:
    """A worker's settings for a tiny checkpoint."""
    values = {
        "name": str(tiny_directory(kind)), "voices_dir": str(voices), "device": "cpu", "dtype": "float32",
        "codec_dtype": "auto", "kernels": "auto", "cuda_graphs": True, "revision": None, "offline": False,
        "cache_dir": None, "max_jobs": 3, "trim_silence": False, "sampling": SAMPLING,
    }  # fmt: skip
    model = ModelSettings(**{**values, **changed})
    return Settings("qwentts-qwen3", "engine.worker.backends.qwen3:Qwen3Backend", model=model)


def write_wave(path: Path, seconds: float = 2.0, seed: int = 0, rate: int = 24_000) -> Path:
    """A recording of `seconds`, mono 16-bit."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(float_to_pcm16(sound(seconds, seed, rate)))
    return path


def put_voice(folder: Path, name: str, seed: int | None = None, transcript: str | None = None, **sheet: object) -> Path:
    """A voice of the folder; with `seed` it has a recording."""
    directory = folder / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "voice.yaml").write_text(yaml.safe_dump(sheet))
    if seed is not None:
        write_wave(directory / "reference.wav", seed=seed)
    if transcript is not None:
        (directory / "transcript.txt").write_text(transcript)
    return directory


def drain(backend, events=None):
    """Step until nothing can be done; the events so far and new."""
    events = [] if events is None else events
    while backend.step(events.append):
        pass
    return events


def pcm_of(events, job=1):
    return b"".join(event.pcm for event in events if isinstance(event, Chunk) and event.job == job)


def spoken(backend, text=TEXT, voice="ryan", job=1, **more):
    """What a backend makes of a text given at once."""
    backend.add(Synthesize(job, voice, text, **more))
    return pcm_of(drain(backend), job)


class Reference:
    """The engine without the backend: the audio that the backend must produce."""

    def __init__(self, kind: str = "custom_voice", **sampling: object) -> None:
        self.loaded: LoadedCheckpoint = load_checkpoint(tiny_directory(kind), FLOAT32)
        self.runner = Runner(self.loaded.model, 1, 512)
        self._sampling = resolve_sampling({**SAMPLING, **sampling}, self.loaded.generation)

    def preset(self, text: str, speaker: str = "ryan", language: str | None = None, instruct: str | None = None):
        return self.speak(text, self.loaded.planner.custom_voice(speaker, language, instruct))

    def designed(self, text: str, instruct: str, language: str | None = None):
        return self.speak(text, self.loaded.planner.voice_design(instruct, language))

    def cloned(self, text: str, recording: Path, transcript: str | None, language: str | None = None):
        prompt = make_voice_prompt(self.loaded.model, load_audio(recording), transcript)
        primed = self.runner.prime(prompt.codes) if prompt.codes is not None else None
        return self.speak(text, self.loaded.planner.clone(prompt.clone, language), prompt.vectors, primed)

    def speak(self, text: str, plan: PromptPlan, *voice: object) -> bytes:
        engine = Engine(self.runner, self.loaded.tokenizer)
        engine.add(1, GenerationRequest(plan, self._sampling, *voice))
        engine.append_text(1, text)
        engine.end_text(1)
        waves = []
        while engine.busy:
            waves += [progress.wave for progress in engine.step()]
        return float_to_pcm16(torch.cat(waves).numpy())


def same(ours: bytes, theirs: bytes) -> bool:
    """Whether two replies are one but for rounding: chunks are as long as time allows, and batches as they come."""
    if len(ours) != len(theirs):
        return False
    return bool(np.abs(np.frombuffer(ours, "<i2").astype(int) - np.frombuffer(theirs, "<i2")).max(initial=0) <= 2)
