"""The engine as it is chosen, fetched and given voices, before any worker runs.

With `worker_client` the only daemon file that imports `engine`; what is heavy there is imported on use.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import engine
from engine.checkpoint import hub
from engine.ipc.settings import ModelSettings, Settings
from engine.model.config import CheckpointError
from engine.voices import folder as voice_folder
from engine.worker.backends import selection

from .. import __version__, logs
from ..config.ownership import hand_over, surroundings
from ..config.paths import voices_dir
from ..config.schema import Config
from ..errors import StartError

EMBEDDED = "espeak"
REMEDY = "pip install 'qwentts-daemon[engine]'"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clone:
    """A voice to be cloned from a recording; `transcript` holds its words."""

    name: str
    audio: Path
    transcript: str | None = None
    language: str | None = None
    description: str | None = None


def check_installation() -> None:
    """`engine` is a name that other packages may carry too. Raises StartError when it is not ours."""
    here, there = Path(__file__).parents[2], Path(str(engine.__file__)).parents[1]
    if here != there or engine.__version__ != __version__:
        raise StartError(
            f"the package `engine` in {there} does not belong to qwentts-daemon {__version__} in {here}; "
            "install qwentts-daemon into a virtual environment of its own"
        )


def choose_engines(config: Config, environment: Mapping[str, str]) -> list[tuple[Settings, ...]]:
    """Settings of the workers that speak, one a device, and, where one may cover for them, of the embedded voice's."""
    wanted = config.engine.backend
    chosen = selection.choose(wanted, config.engine.model)
    log.info("engine.backend %s: %s, because %s", wanted, chosen.name, chosen.reason)
    lines = logs.formatter(config.log.format, environment)
    embedded = (Settings(f"qwentts-{EMBEDDED}", selection.BACKENDS[EMBEDDED], config.log.level, lines),)
    if chosen.name == EMBEDDED:
        return [embedded]
    workers = tuple(replace(each, log_formatter=lines) for each in _workers(config, environment, chosen))
    return [workers, embedded] if config.engine.fallback else [workers]


def _workers(config: Config, environment: Mapping[str, str], chosen: selection.BackendChoice) -> tuple[Settings, ...]:
    name, devices = f"qwentts-{chosen.name}", _devices(config.engine.devices, environment)
    models = [model_settings(config, environment, device) for device in devices]
    names = [name] if len(devices) == 1 else [f"{name}-{device.partition(':')[2] or 0}" for device in devices]
    return tuple(
        Settings(each, chosen.path, config.log.level, model=model) for each, model in zip(names, models, strict=True)
    )


def _devices(wanted: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, ...]:
    """`all` as the GPUs that there are; where they cannot be counted, it is `auto`."""
    if wanted != ("all",):
        return wanted
    return tuple(f"cuda:{number}" for number in range(selection.gpu_count(environment))) or ("auto",)


def model_settings(config: Config, environment: Mapping[str, str], device: str) -> ModelSettings:
    """What a worker on `device` needs to know of the model."""
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
    """Fetch `engine.model`, if it is not there yet, and give its directory. Raises StartError."""
    wanted = config.engine
    cache = Path(wanted.cache_dir).expanduser() if wanted.cache_dir else None
    try:
        return hub.find_checkpoint(wanted.model, revision=wanted.revision, offline=wanted.offline, cache=cache)
    except CheckpointError as error:
        raise StartError(str(error)) from error
    except ImportError as error:
        raise StartError(f"not installed: {error.name}; {REMEDY}") from error


def judge_recording(audio: Path) -> list[str]:
    """What could be better about a recording to clone. Raises StartError when it cannot be used at all."""
    with _explained(audio):
        from engine.voices.audio import read_audio
        from engine.voices.recording_check import check_recording

        findings = check_recording(*read_audio(audio))
    if errors := [finding.message for finding in findings if finding.level == "error"]:
        raise StartError(f"{audio}: {'; '.join(errors)}", os.EX_DATAERR)
    return [finding.message for finding in findings]


def add_clone(folder: Path, clone: Clone) -> Path:
    """Put a cloned voice into the folder, in the place of an older one of its name. Raises StartError."""
    check_voice_name(clone.name)
    description = clone.description or clone.name.replace("_", " ").capitalize()
    languages = (clone.language,) if clone.language else ()
    try:
        with _explained(clone.audio), tempfile.TemporaryDirectory() as scratch:
            recording, around = _as_reference(clone.audio, Path(scratch)), surroundings(folder)
            directory = voice_folder.write_clone(
                folder,
                voice_folder.FolderVoice(
                    clone.name, "clone", description, languages, recording=recording, transcript=clone.transcript
                ),
            )
            hand_over(directory, around)
            return directory
    except OSError as error:
        raise StartError(f"{folder}: {error.strerror or error} (voices.dir)", os.EX_CANTCREAT) from error


def check_voice_name(name: str) -> None:
    """Raises StartError for a name that no voice can have."""
    try:
        voice_folder.check_name(name)
    except voice_folder.VoiceFolderError as error:
        raise StartError(str(error), os.EX_USAGE) from error


def _as_reference(audio: Path, scratch: Path) -> Path:
    """The recording in one of the two formats of the voices folder; those are kept as they are."""
    if f"reference{audio.suffix.lower()}" in voice_folder.REFERENCE_FILES:
        return audio
    from engine.voices.audio import read_audio, write_wave

    write_wave(scratch / "reference.wav", *read_audio(audio))
    return scratch / "reference.wav"


@contextmanager
def _explained(audio: Path) -> Iterator[None]:
    """Say what is missing or wrong when a recording is to be read."""
    try:
        yield
    except ImportError as error:
        raise StartError(f"not installed: {error.name}; {REMEDY}") from error
    except ValueError as error:  # engine.voices.audio.AudioError, which cannot be named before it is imported
        raise StartError(f"{audio}: {error}", os.EX_DATAERR) from error
