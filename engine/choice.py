"""Which backend to use when the user leaves it open, and why, without importing any of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BACKENDS = {
    "espeak": "engine.backends.espeak:EspeakBackend",
    "qwen3": "engine.backends.qwen3:Qwen3Backend",
}
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend's name, where it is (`module:Class`), and the reason for it in words for the log."""

    name: str
    path: str
    reason: str


def choose(
    wanted: str, installed: Callable[[str], bool] = lambda module: importlib.util.find_spec(module) is not None
) -> Choice:
    """The backend for `auto`, `qwen3` or `espeak`."""
    if wanted != "auto":
        return Choice(wanted, BACKENDS[wanted], "the configuration says so")
    obstacle = _obstacle_to_qwen3(installed)
    name = "espeak" if obstacle else "qwen3"
    return Choice(name, BACKENDS[name], obstacle or "there is a GPU and everything it needs")


def _obstacle_to_qwen3(installed: Callable[[str], bool]) -> str | None:
    if not installed("engine.backends.qwen3"):
        return "this version has no Qwen3-TTS engine yet"
    if not installed("torch"):
        return "torch is not installed (pip install 'qwentts-daemon[engine]')"
    if not any(Path(device).exists() for device in GPU_DEVICES):
        return "there is no NVIDIA GPU here"
    return None
