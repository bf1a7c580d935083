"""Announcements over MQTT: created, connected and closed here; imported only with `mqtt.host`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from ..announcements.announcer import Announcer
from ..announcements.playback import PlaybackContext, TargetSink
from ..audio.chime import Chime
from ..config.mqtt_schema import Mqtt
from ..config.paths import preferences_path
from ..config.schema import Announce, Config
from ..config.target_schema import HermesTarget
from ..errors import ConfigError
from ..http.recordings import RecordingStore
from ..sinks import Services, make_sink
from ..sinks.hermes_site import PlayAcks
from ..synthesis.reply import Synthesizer
from ..voices.catalog import VoiceCatalog
from .bridge import Bridge
from .commands import CommandHandler, DaemonControls, EventPublisher
from .connection import make_broker, node_id
from .entities import Device, EntityPublisher, EntitySources
from .hermes import Hermes
from .preferences import PreferencesFile, PreferenceStore
from .publisher import Publisher


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The parts of the daemon that announcements use."""

    speaker: Synthesizer
    catalog: Callable[[], VoiceCatalog]
    store: RecordingStore | None
    controls: DaemonControls


@contextlib.asynccontextmanager
async def announcing(config: Config, dependencies: Dependencies) -> AsyncIterator[Announcer]:
    """Serve announcements over MQTT while the context is open; call `drain` before its end. Raises ConfigError."""
    client_id = config.mqtt.client_id or f"qwentts-{node_id(config.mqtt)}"
    broker, publisher = make_broker(config.mqtt, client_id), Publisher()
    preferences = PreferenceStore(PreferencesFile(preferences_path(os.environ)))
    entities = _entities(config.mqtt, publisher, dependencies, preferences)
    bridge = Bridge(broker, publisher, entities.topics.status)
    acks = PlayAcks()
    hermes = _hermes(config.announce, publisher, acks)
    outlets = _outlets(config, Services(bridge.publish, entities.topics.base, dependencies.store, acks))
    chime, turns = _chime(config.announce), asyncio.Semaphore(config.announce.max_jobs)
    events = EventPublisher(entities.topics, publisher, hermes)
    async with asyncio.TaskGroup() as tasks:
        announcer = Announcer(
            PlaybackContext(dependencies.speaker, turns, chime, events.tell, tasks), outlets, config.announce
        )
        commands = CommandHandler(
            announcer, events, entities, preferences, dependencies.catalog, config.announce, dependencies.controls
        )
        subscriptions = [*entities.subscriptions, *hermes.topics]
        entities.show(announcer.depth)
        running = [
            tasks.create_task(bridge.run(commands.take, subscriptions), name="mqtt bridge"),
            tasks.create_task(entities.run(lambda: announcer.depth), name="mqtt entities"),
            tasks.create_task(preferences.save_changes(), name="preferences"),
        ]
        try:
            yield announcer
        finally:
            announcer.close()
            for task in running:
                task.cancel()


def _entities(
    config: Mqtt, publisher: Publisher, dependencies: Dependencies, preferences: PreferenceStore
) -> EntityPublisher:
    sources = EntitySources(dependencies.catalog, dependencies.speaker.pool.primary, dependencies.speaker.activity)
    device = Device(config, node_id(config), dependencies.controls.buttons)
    return EntityPublisher(device, publisher, sources, preferences)


def _hermes(config: Announce, publisher: Publisher, acks: PlayAcks) -> Hermes:
    """Return the handler of Hermes. Raises ConfigError if two targets are the same site."""
    sites: dict[str, str] = {}
    for name, target in config.targets.items():
        if isinstance(target, HermesTarget) and sites.setdefault(target.site, name) != name:
            raise ConfigError(f"announce.targets.{name}: the site {target.site} is already {sites[target.site]}")
    return Hermes(sites, publisher, acks)


def _chime(config: Announce) -> Chime:
    return Chime(Path(config.chime_file).expanduser() if config.chime_file else None)


def _outlets(config: Config, services: Services) -> dict[str, TargetSink]:
    return {
        name: TargetSink(target, make_sink(name, target, services)) for name, target in config.announce.targets.items()
    }
