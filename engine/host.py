"""The interface for a host program, such as the daemon, that runs the engine in worker processes.

A host needs this module and `engine.ipc`: it chooses a backend, prepares checkpoint and voices, checks the machine,
and spawns workers with `run_worker`. Importing the module is light. Functions that need more than the standard
library and PyYAML import it on use and raise ImportError where it is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .acceleration.compile_cache import keep_compiled
from .checkpoint import hub, integrity, memory_plan
from .checkpoint.hub import DownloadInterrupted
from .checkpoint.memory_footprint import NumberBytes
from .checkpoint.memory_plan import MemoryPlan, MemoryShortage
from .installation import driver_fault, driver_version, install_command, install_source
from .ipc.messages import Voice
from .ipc.settings import Settings
from .model.config import CheckpointError, ModelConfig, read_config
from .voices import folder as voice_folder
from .voices.folder import FolderVoice, VoiceFolderError
from .worker.backends import BackendError, selection
from .worker.backends.selection import BackendChoice, gpu_count
from .worker.process import make_backend
from .worker.process import run as run_worker

__all__ = [
    "LONGEST_POSITIONS",
    "PACKAGE_DIR",
    "BackendChoice",
    "BackendError",
    "BackendInfo",
    "CheckpointError",
    "DownloadInterrupted",
    "FolderVoice",
    "MemoryPlan",
    "MemoryShortage",
    "ModelConfig",
    "RecordingReport",
    "VoiceFolderError",
    "__version__",
    "backend_path",
    "check_recording",
    "check_voice_name",
    "checkpoint_files",
    "choose_backend",
    "describe_backend",
    "driver_fault",
    "driver_files",
    "driver_version",
    "file_fault",
    "find_checkpoint",
    "gpu_count",
    "has_known_hash",
    "install_command",
    "install_source",
    "kernel_cache",
    "plan_memory",
    "probe_command",
    "read_config",
    "run_worker",
    "voices_signature",
    "write_clone",
    "write_reference",
]

LONGEST_POSITIONS = memory_plan.POSITIONS[0]
"""Positions per job, prompt and speech, of a GPU with enough memory."""
PACKAGE_DIR = Path(__file__).parent
"""Where this package is installed."""

_DRIVER_FILES = (*selection.GPU_DEVICES, "/dev/nvidia0", "/dev/nvidia-uvm")
_WEIGHTS = (hub.WEIGHTS_FILE, hub.CODEC_WEIGHTS_FILE)


# --- backends and workers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a backend lists before it is loaded: its voices, and whether more may be added while it runs."""

    voices: tuple[Voice, ...]
    takes_new_voices: bool


def choose_backend(wanted: str, model: str) -> BackendChoice:
    """Resolve `auto`, `qwen3` or `espeak` on this machine; `model` is the checkpoint that Qwen3 would load."""
    return selection.choose(wanted, model)


def backend_path(name: str) -> str:
    """Return where a backend is, as `module:Class`. Raises KeyError."""
    return selection.BACKENDS[name]


def describe_backend(settings: Settings) -> BackendInfo:
    """Return the voices of the backend that `settings` names, without loading it. Raises BackendError."""
    backend = make_backend(settings)
    return BackendInfo(backend.voices(), backend.takes_new_voices)


# --- the machine ----------------------------------------------------------------------------------------------


def driver_files() -> list[Path]:
    """Return the device files of the NVIDIA driver that exist."""
    return [Path(device) for device in _DRIVER_FILES if Path(device).exists()]


def probe_command() -> list[str]:
    """Return a command that prints what torch finds on this machine's GPUs, as JSON.

    It is a process of its own because a broken driver may hang or abort it.
    """
    return [sys.executable, "-m", "engine.checkpoint.gpu_probe"]


def kernel_cache(environment: Mapping[str, str]) -> Path:
    """Return the directory in which a worker with this environment keeps its compiled kernels."""
    completed = dict(environment)
    keep_compiled(completed)
    return Path(completed["TRITON_CACHE_DIR"])


# --- the checkpoint -------------------------------------------------------------------------------------------


def find_checkpoint(name: str, revision: str | None, offline: bool, cache_dir: str | None) -> Path:
    """Return the directory of a checkpoint, a path or a hub id, and download it if need be and not `offline`.

    Raises CheckpointError; of its kinds, DownloadInterrupted may succeed later.
    """
    cache = Path(cache_dir).expanduser() if cache_dir else None
    return hub.find_checkpoint(name, revision=revision, offline=offline, cache=cache)


def checkpoint_files(directory: Path) -> list[Path]:
    """Return the files of a checkpoint that exist or must exist."""
    return [directory / name for name in hub.WANTED_FILES if name in _WEIGHTS or (directory / name).exists()]


def file_fault(file: Path, with_hash: bool) -> str | None:
    """Return the fault of a file of a checkpoint: truncated weights, or with `with_hash` other damage."""
    fault = integrity.safetensors_fault(file) if file.suffix == ".safetensors" else None
    return fault or (integrity.hash_fault(file) if with_hash else None)


def has_known_hash(file: Path) -> bool:
    """Whether the hub's hash of a file is known, so that `file_fault` can compare it."""
    return integrity.is_known(file)


def plan_memory(config: ModelConfig, network_bytes: int, codec_bytes: int, free_bytes: int, jobs: int) -> MemoryPlan:
    """Fit a model and its jobs into a GPU's memory. Raises MemoryShortage, which states what would fit.

    network_bytes, codec_bytes: size of one number in either part of the model.
    """
    return memory_plan.plan(config, NumberBytes(network_bytes, codec_bytes), free_bytes, jobs)


# --- voices ---------------------------------------------------------------------------------------------------


def voices_signature(folder: Path) -> object:
    """Return a value that changes with the files of the voices folder, in microseconds per voice."""
    return voice_folder.signature(folder)


def check_voice_name(name: str) -> None:
    """Check the name of a new voice. Raises VoiceFolderError."""
    voice_folder.check_name(name)


def write_clone(folder: Path, voice: FolderVoice) -> Path:
    """Write a cloned voice into the voices folder, replacing one of its name; return its directory. Raises OSError."""
    return voice_folder.write_clone(folder, voice)


@dataclass(frozen=True, slots=True)
class RecordingReport:
    """What is wrong with a recording: `errors` make it unusable, `warnings` make its clone worse."""

    errors: list[str]
    warnings: list[str]


def check_recording(audio: Path) -> RecordingReport:
    """Check a recording to clone. Raises ValueError if it cannot be read."""
    from .voices.audio import read_audio
    from .voices.recording_check import check_recording as check

    findings = check(*read_audio(audio))
    return RecordingReport(
        [finding.message for finding in findings if finding.level == "error"],
        [finding.message for finding in findings if finding.level != "error"],
    )


def write_reference(audio: Path, scratch: Path) -> Path:
    """Return a recording in a format of the voices folder: `audio` itself, or a copy in `scratch`.

    Raises ValueError if it cannot be read.
    """
    if f"reference{audio.suffix.lower()}" in voice_folder.REFERENCE_FILES:
        return audio
    from .voices.audio import read_audio, write_wave

    write_wave(scratch / "reference.wav", *read_audio(audio))
    return scratch / "reference.wav"
