"""Which backend `auto` takes, on machines of several kinds."""

import pytest

from engine.installation import install_command
from engine.worker.backends import selection
from engine.worker.backends.selection import choose, gpu_count

HUB_ID = "Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice"


@pytest.mark.parametrize(
    ("model", "gpu", "installed", "name", "reason"),
    [
        (HUB_ID, True, True, "qwen3", "a GPU and all packages"),
        (HUB_ID, False, True, "espeak", "not have an NVIDIA GPU"),
        (HUB_ID, True, False, "espeak", install_command("engine")),
        ("/nowhere/model", True, True, "espeak", "engine.model /nowhere/model is not a directory"),
    ],
)
def test_choose_auto_selects_best_backend_for_the_machine(tmp_path, monkeypatch, model, gpu, installed, name, reason):
    monkeypatch.setattr(selection, "GPU_DEVICES", (str(tmp_path if gpu else tmp_path / "none"),))
    chosen = choose("auto", model, lambda module: installed)
    assert chosen.name == name
    assert reason in chosen.reason


@pytest.mark.parametrize("wanted", ["qwen3", "espeak"])
def test_choose_accepts_named_backend_without_checks(wanted):
    assert choose(wanted, "/nowhere", lambda module: False).path == selection.BACKENDS[wanted]


@pytest.mark.parametrize(
    ("gpus", "environment", "count"),
    [
        (2, {}, 2), (0, {}, 0), (None, {}, 0),
        (4, {"CUDA_VISIBLE_DEVICES": "0, 2"}, 2), (2, {"CUDA_VISIBLE_DEVICES": ""}, 0),
        (2, {"CUDA_VISIBLE_DEVICES": "1,-1,0"}, 1),
    ],
)  # fmt: skip
def test_gpu_count_honours_cuda_visible_devices(tmp_path, monkeypatch, gpus, environment, count):
    folder = tmp_path / "gpus"
    for number in range(gpus or 0):
        (folder / f"0000:0{number}:00.0").mkdir(parents=True)
    if gpus == 0:
        folder.mkdir()
    monkeypatch.setattr(selection, "GPU_FOLDER", str(folder))
    assert gpu_count(environment) == count
