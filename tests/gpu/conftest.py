"""One full-size random checkpoint for all tests here that need no other: 0.6B, CustomVoice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checkpoint.load import LoadOptions
from engine.checkpoint.loaded import LoadedCheckpoint, load_checkpoint
from engine.testing.tiny_checkpoint import build_full


@pytest.fixture(scope="session")
def custom_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_full(tmp_path_factory.mktemp("0b6"), "0b6", "custom_voice")


@pytest.fixture(scope="session")
def loaded(custom_voice: Path) -> LoadedCheckpoint:
    """On the GPU in bfloat16."""
    return load_checkpoint(custom_voice, LoadOptions(fold_text=True))


@pytest.fixture(scope="session")
def exact(custom_voice: Path) -> LoadedCheckpoint:
    """The same in float32."""
    return load_checkpoint(custom_voice, LoadOptions(dtype=torch.float32, fold_text=True))
