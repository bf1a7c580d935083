"""Streams of the public API on tiny models, and how to compare them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

import engine
from tests.engine.support.random_inputs import sound
from tests.engine.support.tiny_models import tiny_directory

GREEDY = {"do_sample": False, "subtalker_dosample": False}
TEXTS = [
    "hello world, 你好 😀",
    "the washing machine has finished, and it will rain",
    "it is six o'clock and the light is on in the kitchen",
]
FADE = 512
WINDOWED = {"windowed_decode": True}


@cache
def model(kind: str = "base", slots: int = 4, eos_gain: float = 0.0) -> Any:
    directory = str(tiny_directory(kind, eos_gain=eos_gain))
    return engine.Qwen3TTSModel.from_pretrained(directory, device_map="cpu", torch_dtype=torch.float32, slots=slots)


@cache
def prompt(seed: int = 1, in_context: bool = True, seconds: float = 1.0) -> Any:
    recording = (sound(seconds, seed), 24_000)
    words = {"ref_text": "the door is open" * seed} if in_context else {"x_vector_only_mode": True}
    return model().create_voice_clone_prompt(recording, **words)[0]


def joined(chunks: Iterator[tuple[np.ndarray, int]]) -> np.ndarray:
    return np.concatenate([wave for wave, _ in chunks])


def cloned(text: str = TEXTS[0], item: Any = None, frames: int = 21, **given: Any) -> list[np.ndarray]:
    options = GREEDY | {"max_frames": frames} | given
    made = model().stream_generate_voice_clone(text, "en", voice_clone_prompt=item or prompt(), **options)
    return [wave for wave, _ in made]


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max(initial=0) < 1e-4


def items() -> list[Any]:
    return [prompt(), prompt(2, True, 1.7), prompt(3, False)]


def rounds(**given: Any) -> list[list[np.ndarray]]:
    options = GREEDY | {"max_frames": 60} | given
    speaker = options.pop("model", model(eos_gain=2.0))
    texts = options.pop("text", TEXTS)
    made = speaker.batch_stream_generate_voice_clone(texts, **{"language": ["en", "Auto", "de"]} | options)
    return [waves for waves, rate in made if rate == 24_000]


def by_item(made: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.concatenate(waves) for waves in zip(*made, strict=True)]
