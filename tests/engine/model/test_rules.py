"""Rules of engine/model that keep it fast and portable: what it imports, and that no step reads the device back."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import engine.model
from engine.model.speech_model import SpeechModel
from engine.model.talker import BatchRows
from tests.engine.support.tiny_models import tiny_model

FOLDER = Path(engine.model.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_model_modules_import_only_torch_and_each_other(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            own = node.level == 1
            roots = [] if own else [(node.module or "").split(".")[0]]
            assert node.level <= 1, f"line {node.lineno} leaves engine/model"
        else:
            roots = [name.name.split(".")[0] for name in node.names] if isinstance(node, ast.Import) else []
        assert all(root == "torch" or root in sys.stdlib_module_names for root in roots), roots


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_model_modules_stay_within_size_limits(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, node.name


@torch.inference_mode()
def test_decode_step_reads_no_value_back_to_the_host() -> None:
    """Run on the meta device, which holds shapes only: code that reads a value back or branches on it raises."""
    config = tiny_model().config
    with torch.device("meta"):
        model = SpeechModel(config).eval().to("meta")
        slots, code = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
        cache, frame_cache, state = (
            model.talker.allocate(4, 32),
            model.code_predictor.allocate(4),
            model.decoder.allocate(4),
        )
        hidden, _ = model.talker.step(torch.zeros(3, 64), cache, BatchRows(slots, slots, 32))
        codes = model.code_predictor.frame(hidden, code, frame_cache, lambda logits, _: logits.argmax(-1))
        model.talker.step(model.talker.codes(codes), cache, BatchRows(slots, slots, 32))
        for frames in (1, 2, 4, 8):
            wave = model.decoder.step(codes.unsqueeze(-1).expand(-1, -1, frames), slots, state)
            assert wave.shape == (3, 1920 * frames)
        state.reset(slots)


def test_hub_and_config_do_not_import_torch() -> None:
    code = "import sys, engine.checkpoint.hub, engine.model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parents[1], check=False).returncode == 0
