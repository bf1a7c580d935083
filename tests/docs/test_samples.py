"""The Python samples of docs/python-api.md run, one after another, on tiny checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import engine
from tests.docs.pages import ROOT, code_blocks
from tests.engine.support.random_inputs import sound
from tests.engine.support.tiny_models import tiny_directory

POSITIONS = 44
"""A bound on prompt and speech: a tiny checkpoint draws random codes, among which the end comes late."""


def tiny(hub_id: str) -> str:
    """Return the tiny checkpoint of the same kind as a published model."""
    kinds = {"CustomVoice": "custom_voice", "Base": "base", "VoiceDesign": "voice_design"}
    return str(tiny_directory(kinds[hub_id.rpartition("-")[2]]))


def test_python_samples_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_model = engine.Qwen3TTSModel.from_pretrained
    load_codec = engine.Qwen3TTSTokenizer.from_pretrained
    monkeypatch.setattr(
        engine.Qwen3TTSModel,
        "from_pretrained",
        lambda hub_id: load_model(tiny(hub_id), device_map="cpu", max_positions=POSITIONS),
    )
    monkeypatch.setattr(engine.Qwen3TTSTokenizer, "from_pretrained", lambda hub_id: load_codec(tiny(hub_id)))
    monkeypatch.chdir(tmp_path)
    soundfile.write("anna.wav", sound(1.0, 1), 24_000)
    names: dict[str, Any] = {}
    for number, sample in enumerate(code_blocks(ROOT / "docs/python-api.md", "python"), 1):
        exec(compile(sample, f"sample {number}", "exec"), names)
    assert names["rate"] == 24_000
    assert names["lengths"][:3] == [1, 1, 1]
    assert [wave.dtype for wave in names["waves"]] == [np.float32]
    assert sum(map(len, names["paged"])) % 1920 == 0
    assert len(soundfile.read("stream.wav")[0]) > 0
