"""A full-size random checkpoint that the tests share, 0.6B CustomVoice, and exact float32 on the GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
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


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """Turn TF32 off, so that float32 is exact enough to compare with, and free the GPU's memory afterwards."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    gc.collect()
    torch.cuda.empty_cache()
