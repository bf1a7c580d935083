"""Tiny checkpoints built once per test run, and the models loaded from them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

from engine.checkpoint.load import LoadOptions, load
from engine.model.speech_model import SpeechModel
from engine.testing.tiny_checkpoint import build

# Networks this small lose far more by waiting for a second thread on a busy machine than they gain.
torch.set_num_threads(1)

FLOAT32 = LoadOptions(device="cpu", dtype=torch.float32)


@cache
def tiny_directory(kind: str = "base", size: str = "1b7", eos_gain: float = 0.0) -> Path:
    """A tiny checkpoint's directory; read it, never write to it."""
    root = tempfile.mkdtemp(prefix="tiny-qwen3-tts-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return build(Path(root), kind, size, eos_gain=eos_gain)


@cache
def tiny_model(kind: str = "base", size: str = "1b7") -> SpeechModel:
    """A tiny model in float32 on the CPU, shared by all tests."""
    return load(tiny_directory(kind, size), FLOAT32)
