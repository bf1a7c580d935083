"""Selects the backend for `engine.backend: auto`, and the reason, without importing any backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from ...installation import install_command

BACKENDS = {
    "espeak": "engine.worker.backends.espeak:EspeakBackend",
    "qwen3": "engine.worker.backends.qwen3:Qwen3Backend",
}
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")
GPU_FOLDER = "/proc/driver/nvidia/gpus"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend's name, its class (`module:Class`), and the reason for the choice, for the log."""

    name: str
    path: str
    reason: str


def choose(
    wanted: str, model: str, installed: Callable[[str], bool] = lambda module: find_spec(module) is not None
) -> BackendChoice:
    """Return the backend for `auto`, `qwen3` or `espeak`; `model` is the checkpoint that Qwen3 would load."""
    if wanted != "auto":
        return BackendChoice(wanted, BACKENDS[wanted], "it is configured")
    obstacle = _obstacle_to_qwen3(model, installed)
    name = "espeak" if obstacle else "qwen3"
    return BackendChoice(name, BACKENDS[name], obstacle or "a GPU and all packages are available")


def has_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is loaded, without importing torch."""
    return any(Path(device).exists() for device in GPU_DEVICES)


def gpu_count(environment: Mapping[str, str]) -> int:
    """Return how many NVIDIA GPUs a process with this environment may use, without torch; 0 also if unknown."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # the driver stops at the first invalid one
        return len(list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(",")))))
    folder = Path(GPU_FOLDER)
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _obstacle_to_qwen3(model: str, installed: Callable[[str], bool]) -> str | None:
    if not installed("torch"):
        return f"torch is not installed ({install_command('engine')})"
    if not has_gpu():
        return "this machine does not have an NVIDIA GPU"
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        return f"engine.model {model} is not a directory"
    return None
