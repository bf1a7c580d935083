"""Every check in turn; what one finds decides whether the next makes sense."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from wyoming.info import TtsProgram

from ..config.paths import voices_dir
from ..config.schema import Config
from ..daemon import program_uri
from ..errors import ConfigError
from . import broker, directories, machine, model, network, speech
from .findings import Finding, Level


def examine(config: Config, environment: Mapping[str, str], quick: bool) -> Iterator[Finding]:
    """All findings, each as soon as it is known; `quick` leaves out hashes and the spoken sentence."""
    yield from machine.check_python((sys.version_info[0], sys.version_info[1]), sys.prefix != sys.base_prefix)
    name, findings = model.check_choice(config.engine)
    yield from machine.check_packages(
        machine.installed_packages(["espeak", "engine"] if name == "qwen3" else ["espeak"])
    )
    yield from findings
    running = _running(config)
    speaks = True
    if name == "qwen3":
        for finding in _natural(config, running is not None, quick):
            speaks = speaks and finding.level is not Level.ERROR
            yield finding
    yield from _places(config, environment, name)
    yield from network.check_port(config.wyoming, running)
    yield from network.check_access(config.wyoming)
    yield from network.check_discovery(config.wyoming, running)
    yield from broker.check_broker(config.mqtt)
    if not quick:
        yield from _speech(config, environment, running, [name] if speaks else [])


def _running(config: Config) -> TtsProgram | None:
    try:
        return network.ask_daemon(program_uri(config))
    except ConfigError:  # stdio:// cannot be queried
        return None


def _natural(config: Config, in_use: bool, quick: bool) -> Iterator[Finding]:
    """What only the natural voice needs: GPU, model, memory."""
    if config.engine.devices != ("cpu",):
        yield from machine.check_driver(machine.ask_driver(), model.device_files())
        yield from machine.check_compiler()
    torch = model.read_probe(model.ask_torch())
    if isinstance(torch, Finding):
        yield torch
    else:
        yield from model.check_gpus(torch, config.engine.devices, model.driver_version())
    directory = model.find_model(config.engine)
    if isinstance(directory, Finding):
        yield directory
        return
    yield from model.check_files(directory, with_hashes=not quick)
    described = model.check_config(directory)
    if isinstance(described, Finding):
        yield described
    elif not isinstance(torch, Finding):
        yield from model.check_memory(described, config.engine, torch, in_use)


def _places(config: Config, environment: Mapping[str, str], name: str) -> Iterator[Finding]:
    voices = voices_dir(config, environment)
    yield from directories.check_directory("voices", voices, "voices.dir")
    yield from directories.check_privacy("voices", voices)
    if name != "qwen3":
        return
    hub, compiled = model.hub_cache(config, environment), model.compiled_cache(environment)
    there = not isinstance(model.find_model(config.engine), Finding)
    room = directories.LOW_BYTES if there else directories.MODEL_BYTES
    if not (there and model.is_directory(config.engine)):
        yield from directories.check_directory("models", hub, "engine.cache_dir or HF_HOME", room)
    yield from directories.check_directory("kernels", compiled, "TRITON_CACHE_DIR")
    yield from directories.check_execution("kernels", compiled, "TRITON_CACHE_DIR")


def _speech(
    config: Config, environment: Mapping[str, str], running: TtsProgram | None, able: list[str]
) -> Iterator[Finding]:
    """By the running daemon; else by the engine, and by the one that covers for it."""
    if running:
        yield from speech.check_daemon(program_uri(config))
        return
    covers = ["espeak"] if config.engine.fallback and able != ["espeak"] else []
    for name in [*able, *covers]:
        yield from speech.check_engine(config, name, voices_dir(config, environment))
