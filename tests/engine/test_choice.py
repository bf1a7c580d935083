"""Which backend `auto` takes, on machines of several kinds."""

import pytest

from engine import choice
from engine.choice import choose

HUB_ID = "Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice"


@pytest.mark.parametrize(
    ("model", "gpu", "installed", "name", "reason"),
    [
        (HUB_ID, True, True, "qwen3", "everything it needs"),
        (HUB_ID, False, True, "espeak", "no NVIDIA GPU"),
        (HUB_ID, True, False, "espeak", "pip install 'qwentts-daemon[engine]'"),
        ("/nowhere/model", True, True, "espeak", "engine.model /nowhere/model is no directory"),
    ],
)
def test_auto_is_the_best_that_this_machine_can_run(tmp_path, monkeypatch, model, gpu, installed, name, reason):
    monkeypatch.setattr(choice, "GPU_DEVICES", (str(tmp_path if gpu else tmp_path / "none"),))
    chosen = choose("auto", model, lambda module: installed)
    assert chosen.name == name
    assert reason in chosen.reason


@pytest.mark.parametrize("wanted", ["qwen3", "espeak"])
def test_a_named_backend_is_taken_at_its_word(wanted):
    assert choose(wanted, "/nowhere", lambda module: False).path == choice.BACKENDS[wanted]
