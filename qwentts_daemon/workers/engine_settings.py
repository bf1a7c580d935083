"""Prepares the engine before any worker runs: chooses it, builds its settings, downloads models, adds voices."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine import host
from engine.ipc.settings import ModelSettings, Settings

from .. import __version__, logs
from ..config.ownership import hand_over, surroundings
from ..config.paths import voices_dir
from ..config.schema import Config
from ..errors import StartError

FALLBACK = "espeak"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clone:
    """A voice to clone from a recording; `transcript` holds the words of the recording."""

    name: str
    audio: Path
    transcript: str | None = None
    language: str | None = None
    description: str | None = None


def check_installation() -> None:
    """Check that the package `engine` belongs to this one: its name is a common one. Raises StartError."""
    here, there = Path(__file__).parents[2], host.PACKAGE_DIR.parent
    if here != there or host.__version__ != __version__:
        raise StartError(
            f"the package `engine` in {there} does not belong to qwentts-daemon {__version__} in {here}; "
            "install qwentts-daemon into a virtual environment of its own"
        )


def choose_engines(config: Config, environment: Mapping[str, str]) -> list[tuple[Settings, ...]]:
    """Return the settings of each engine's workers, one per device: the primary engine, then any fallback engine."""
    wanted = config.engine.backend
    chosen = host.choose_backend(wanted, config.engine.model)
    log.info("engine.backend %s: %s, because %s", wanted, chosen.name, chosen.reason)
    lines = logs.formatter(config.log.format, environment)
    fallback = (Settings(f"qwentts-{FALLBACK}", host.backend_path(FALLBACK), config.log.level, lines),)
    if chosen.name == FALLBACK:
        return [fallback]
    workers = tuple(replace(each, log_formatter=lines) for each in _workers(config, environment, chosen))
    return [workers, fallback] if config.engine.fallback else [workers]


def _workers(config: Config, environment: Mapping[str, str], chosen: host.BackendChoice) -> tuple[Settings, ...]:
    name, devices = f"qwentts-{chosen.name}", _devices(config.engine.devices, environment)
    models = [model_settings(config, environment, device) for device in devices]
    names = [name] if len(devices) == 1 else [f"{name}-{device.partition(':')[2] or 0}" for device in devices]
    return tuple(
        Settings(each, chosen.path, config.log.level, model=model) for each, model in zip(names, models, strict=True)
    )


def _devices(wanted: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Resolve `all` to the existing GPUs, or to `auto` if they cannot be counted."""
    if wanted != ("all",):
        return wanted
    return tuple(f"cuda:{number}" for number in range(host.gpu_count(environment))) or ("auto",)


def model_settings(config: Config, environment: Mapping[str, str], device: str) -> ModelSettings:
    """Return the settings of a worker's model on `device`."""
    wanted = config.engine
    given = config.sampling.model_dump() | {"seed": wanted.seed}
    return ModelSettings(
        name=wanted.model,
        voices_dir=str(voices_dir(config, environment)),
        device=device,
        dtype=wanted.dtype,
        codec_dtype=wanted.codec_dtype,
        kernels=wanted.kernels,
        cuda_graphs=wanted.cuda_graphs,
        revision=wanted.revision,
        offline=wanted.offline,
        cache_dir=wanted.cache_dir,
        max_jobs=wanted.max_jobs,
        trim_silence=config.audio.trim_silence,
        sampling={name: value for name, value in given.items() if value is not None},
    )


def download(config: Config) -> Path:
    """Download `engine.model` unless it exists, and return its directory. Raises StartError."""
    wanted = config.engine
    try:
        return host.find_checkpoint(wanted.model, wanted.revision, wanted.offline, wanted.cache_dir)
    except host.CheckpointError as error:
        raise StartError(str(error)) from error
    except ImportError as error:
        raise StartError(f"not installed: {error.name}; {host.install_command('engine')}") from error


def judge_recording(audio: Path) -> list[str]:
    """Return what could be better about a recording to clone. Raises StartError if it is unusable."""
    with _explained(audio):
        report = host.check_recording(audio)
    if report.errors:
        raise StartError(f"{audio}: {'; '.join(report.errors)}", os.EX_DATAERR)
    return report.warnings


def add_clone(folder: Path, clone: Clone) -> Path:
    """Add a cloned voice to the folder, replacing one of its name; return its directory. Raises StartError."""
    check_voice_name(clone.name)
    description = clone.description or clone.name.replace("_", " ").capitalize()
    languages = (clone.language,) if clone.language else ()
    try:
        with _explained(clone.audio), tempfile.TemporaryDirectory() as scratch:
            recording, around = host.write_reference(clone.audio, Path(scratch)), surroundings(folder)
            directory = host.write_clone(
                folder,
                host.FolderVoice(
                    clone.name, "clone", description, languages, recording=recording, transcript=clone.transcript
                ),
            )
            hand_over(directory, around)
            return directory
    except OSError as error:
        raise StartError(f"{folder}: {error.strerror or error} (voices.dir)", os.EX_CANTCREAT) from error


def check_voice_name(name: str) -> None:
    """Check the name of a new voice. Raises StartError."""
    try:
        host.check_voice_name(name)
    except host.VoiceFolderError as error:
        raise StartError(str(error), os.EX_USAGE) from error


@contextmanager
def _explained(audio: Path) -> Iterator[None]:
    """Raise StartError for a recording that cannot be read, or a missing package."""
    try:
        yield
    except ImportError as error:
        raise StartError(f"not installed: {error.name}; {host.install_command('engine')}") from error
    except ValueError as error:
        raise StartError(f"{audio}: {error}", os.EX_DATAERR) from error
