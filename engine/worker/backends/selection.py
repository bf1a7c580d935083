"""Which backend to use when the user leaves it open, and why, without importing any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

BACKENDS = {
    "espeak": "engine.worker.backends.espeak:EspeakBackend",
    "qwen3": "engine.worker.backends.qwen3:Qwen3Backend",
}
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
GPU_FOLDER = "/proc/driver/nvidia/gpus"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend's name, where it is (`module:Class`), and the reason for it in words for the log."""

    name: str
    path: str
    reason: str


def choose(
    wanted: str, model: str, installed: Callable[[str], bool] = lambda module: find_spec(module) is not None
) -> BackendChoice:
    """The backend for `auto`, `qwen3` or `espeak`, where `model` is the checkpoint that Qwen3 would speak with."""
    if wanted != "auto":
        return BackendChoice(wanted, BACKENDS[wanted], "the configuration says so")
    obstacle = _obstacle_to_qwen3(model, installed)
    name = "espeak" if obstacle else "qwen3"
    return BackendChoice(name, BACKENDS[name], obstacle or "there is a GPU and everything it needs")


def has_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is there, asked without torch."""
    return any(Path(device).exists() for device in GPU_DEVICES)


def gpu_count(environment: Mapping[str, str]) -> int:
    """How many NVIDIA GPUs a process of this environment may use, asked without torch; 0: none, or nobody knows."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # the driver takes them up to the first that is none
        return len(list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(",")))))
    folder = Path(GPU_FOLDER)
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _obstacle_to_qwen3(model: str, installed: Callable[[str], bool]) -> str | None:
    if not installed("torch"):
        return "torch is not installed (pip install 'qwentts-daemon[engine]')"
    if not has_gpu():
        return "there is no NVIDIA GPU here"
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        return f"engine.model {model} is no directory"
    return None
