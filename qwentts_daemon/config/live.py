"""Holds the configuration in force. Code reads values when it needs them, so that a reload takes effect everywhere."""

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
"""The keys that a reload applies; all others need a restart."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """The result of a reload.

    config: the previous configuration with the new values of the keys in `taken`.
    needs_restart: the keys whose new values need a restart.
    """

    config: Config
    taken: tuple[str, ...]
    needs_restart: tuple[str, ...]


class LiveConfig:
    """`current` is the configuration in force; `read` reads its sources again."""

    def __init__(self, read: Callable[[], Config]) -> None:
        """Read the configuration with `read`, and raise its exceptions."""
        self.read = read
        self.current = read()


def compare(old: Config, new: Config) -> ConfigChange:
    """Return the keys that differ, and the configuration that a running daemon can apply."""
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
