"""Publishes the Home Assistant device with its preferences and state."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from .. import __version__
from ..config.mqtt_schema import Mqtt
from ..synthesis.stats import ReplyStats
from ..voices.catalog import VoiceCatalog
from .discovery import device_message, discovery_topic
from .messages import Topics
from .preferences import NONE, PreferenceStore, options
from .publisher import Publisher

STATE_INTERVAL_S = 1.0
"""Workers, GPU memory and voices change without a notification, so the state is polled; only changes are published."""
GREETING_DELAY_S = (1.0, 3.0)
"""Home Assistant has just started: it is not flooded by all its devices at once."""


class EngineFacts(Protocol):
    """The primary engine as its `WorkerGroup` reports it."""

    @property
    def ready(self) -> bool: ...
    @property
    def failure(self) -> str | None: ...
    @property
    def unloaded(self) -> bool: ...
    @property
    def gpu_memory_bytes(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class EntitySources:
    """Sources of the published values; each is read when it is published."""

    catalog: Callable[[], VoiceCatalog]
    engine: EngineFacts
    activity: ReplyStats


@dataclass(frozen=True, slots=True)
class Device:
    """The daemon's configuration and node at the broker, and its buttons."""

    config: Mqtt
    node: str
    buttons: tuple[str, ...]


class EntityPublisher:
    """Publishes discovery, preferences and state as retained messages."""

    def __init__(
        self, device: Device, publisher: Publisher, sources: EntitySources, preferences: PreferenceStore
    ) -> None:
        self._device = device
        self.topics = Topics(f"{device.config.base_topic}/{device.node}")
        self._publisher = publisher
        self._sources = sources
        self._preferences = preferences
        self._shown_catalog: VoiceCatalog | None = None
        preferences.on_change = self._show_preferences

    @property
    def birth_topic(self) -> str:
        """Return the topic of Home Assistant's birth message."""
        return f"{self._device.config.discovery_prefix}/status"

    @property
    def subscriptions(self) -> list[str]:
        """Return every topic to subscribe to."""
        return [*self.topics.commands(self._device.buttons), self.birth_topic]

    @property
    def reserved_prefixes(self) -> tuple[str, ...]:
        """Return where a reply would be a command: to this daemon or another one, Home Assistant, or Hermes."""
        config = self._device.config
        return (f"{config.base_topic}/", f"{config.discovery_prefix}/", "hermes/", self.birth_topic)

    async def run(self, queue_depth: Callable[[], int]) -> None:
        """Publish what has changed, once a second, until cancelled."""
        while True:
            self.show(queue_depth())
            await asyncio.sleep(STATE_INTERVAL_S)

    def show(self, queue_depth: int) -> None:
        """Set the retained values to the present state; unchanged ones are not published."""
        catalog = self._sources.catalog()
        if catalog is not self._shown_catalog:
            self._shown_catalog = catalog
            self._show_device()
            self._show_preferences()
        self._publisher.show(self.topics.state, json.dumps(self._state(queue_depth)).encode())

    def on_birth(self, payload: bytes) -> None:
        """Publish everything again after Home Assistant has started."""
        if payload == b"online":
            asyncio.get_running_loop().call_later(random.uniform(*GREETING_DELAY_S), self._publisher.show_again)

    def _show_preferences(self) -> None:
        """Publish the preferences; a voice or style that no longer exists counts as not chosen."""
        known = options(self._sources.catalog())
        shown = {
            name: value if name not in known or value in known[name] else NONE[name]
            for name, value in self._preferences.current.words().items()
        }
        self._publisher.show(self.topics.settings, json.dumps(shown, ensure_ascii=False).encode())

    def _show_device(self) -> None:
        config, node = self._device.config, self._device.node
        topic = discovery_topic(config.discovery_prefix, node)
        if not config.discovery:
            self._publisher.show(topic, b"")  # removes one that was shown before
            return
        message = device_message(node, self.topics, self._device.buttons, options(self._sources.catalog()))
        self._publisher.show(topic, json.dumps(message, ensure_ascii=False).encode())

    def _state(self, queue_depth: int) -> Mapping[str, object]:
        activity, engine = self._sources.activity, self._sources.engine
        memory_bytes = engine.gpu_memory_bytes
        return {
            "state": self._state_word(),
            "queue_depth": queue_depth,
            "ttfa_ms": None if activity.first_audio_s is None else round(activity.first_audio_s * 1000, 1),
            "rtf": None if activity.real_time_factor is None else round(activity.real_time_factor, 4),
            "gpu_memory_mb": None if memory_bytes is None else round(memory_bytes / 1e6),
            "model_loaded": engine.ready,
            "version": __version__,
        }

    def _state_word(self) -> str:
        engine = self._sources.engine
        if self._sources.activity.speaking:
            return "speaking"
        if engine.failure:
            return "failed"
        return "idle" if engine.ready or engine.unloaded else "loading"
