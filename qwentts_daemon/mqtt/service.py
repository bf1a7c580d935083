"""Everything behind `mqtt.host`: made, connected and ended here, and imported only when there is one."""

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
    """What announcements need of the rest of the daemon."""

    speaker: Synthesizer
    catalogue: Callable[[], VoiceCatalog]
    shelf: RecordingStore | None
    controls: DaemonControls


@contextlib.asynccontextmanager
async def announcing(config: Config, around: Dependencies) -> AsyncIterator[Announcer]:
    """Serve announcements over MQTT while the context is open; call `drain` before its end. Raises ConfigError."""
    client_id = config.mqtt.client_id or f"qwentts-{node_id(config.mqtt)}"
    broker, outbox = make_broker(config.mqtt, client_id), Publisher()
    preferences = PreferenceStore(PreferencesFile(preferences_path(os.environ)))
    panel = _panel(config.mqtt, outbox, around, preferences)
    bridge = Bridge(broker, outbox, panel.topics.status)
    acks = PlayAcks()
    hermes = _hermes(config.announce, outbox, acks)
    outlets = _outlets(config, Services(bridge.publish, panel.topics.base, around.shelf, acks))
    chime, turns = _chime(config.announce), asyncio.Semaphore(config.announce.max_jobs)
    events = EventPublisher(panel.topics, outbox, hermes)
    async with asyncio.TaskGroup() as tasks:
        announcer = Announcer(
            PlaybackContext(around.speaker, turns, chime, events.tell, tasks), outlets, config.announce
        )
        commands = CommandHandler(
            announcer, events, panel, preferences, around.catalogue, config.announce, around.controls
        )
        subscriptions = [*panel.subscriptions, *hermes.topics]
        panel.show(announcer.depth)
        running = [
            tasks.create_task(bridge.run(commands.take, subscriptions), name="mqtt bridge"),
            tasks.create_task(panel.run(lambda: announcer.depth), name="mqtt panel"),
            tasks.create_task(preferences.save_changes(), name="preferences"),
        ]
        try:
            yield announcer
        finally:
            announcer.close()
            for task in running:
                task.cancel()


def _panel(config: Mqtt, outbox: Publisher, around: Dependencies, preferences: PreferenceStore) -> EntityPublisher:
    sources = EntitySources(around.catalogue, around.speaker.pool.primary, around.speaker.activity)
    device = Device(config, node_id(config), around.controls.buttons)
    return EntityPublisher(device, outbox, sources, preferences)


def _hermes(config: Announce, outbox: Publisher, acks: PlayAcks) -> Hermes:
    """Raises ConfigError when two targets are one site."""
    sites: dict[str, str] = {}
    for name, target in config.targets.items():
        if isinstance(target, HermesTarget) and sites.setdefault(target.site, name) != name:
            raise ConfigError(f"announce.targets.{name}: the site {target.site} is already {sites[target.site]}")
    return Hermes(sites, outbox, acks)


def _chime(config: Announce) -> Chime:
    return Chime(Path(config.chime_file).expanduser() if config.chime_file else None)


def _outlets(config: Config, services: Services) -> dict[str, TargetSink]:
    return {
        name: TargetSink(target, make_sink(name, target, services)) for name, target in config.announce.targets.items()
    }
