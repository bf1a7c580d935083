"""The configuration in force. Values are read when they are needed, so that a reload takes effect everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .schema import Config, Queue, Text, Wyoming

LIVE = {
    "wyoming": set(Wyoming.model_fields) - {"uri", "name", "zeroconf"},
    "engine": {"job_timeout", "heartbeat_timeout", "restart_delay_max"},
    "voices": {"default", "language", "pin_languages", "styles", "aliases"},
    "audio": {"lead_silence", "tail_silence", "stall_silence", "stall_silence_max"},
    "text": set(Text.model_fields),
    "queue": set(Queue.model_fields),
    "daemon": {"shutdown_timeout"},
    "log": {"level"},
}
"""The keys that are asked for when they are needed; every other one is for the next start."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """The result of reading the sources again: `config` has the values that may change now, the others unchanged."""

    config: Config
    taken: tuple[str, ...]
    needs_restart: tuple[str, ...]


class LiveConfig:
    """`current` is the configuration in force; `read` reads its sources once more."""

    def __init__(self, read: Callable[[], Config]) -> None:
        """Raises what `read` raises."""
        self.read = read
        self.current = read()


def compare(old: Config, new: Config) -> ConfigChange:
    """The keys that differ, and the configuration that a running daemon can make of them."""
    taken: dict[str, dict[str, Any]] = {}
    restart = []
    for section, key in _differences(old, new):
        if key in LIVE.get(section, ()):
            taken.setdefault(section, {})[key] = getattr(getattr(new, section), key)
        else:
            restart.append(f"{section}.{key}")
    sections = {section: getattr(old, section).model_copy(update=values) for section, values in taken.items()}
    names = [f"{section}.{key}" for section, values in taken.items() for key in values]
    return ConfigChange(old.model_copy(update=sections), tuple(names), tuple(restart))


def _differences(old: Config, new: Config) -> list[tuple[str, str]]:
    return [
        (section, key)
        for section in Config.model_fields
        for key in type(getattr(old, section)).model_fields
        if getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    ]
