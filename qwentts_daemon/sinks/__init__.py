"""Sinks: outputs of announcements, one for each type of target in the configuration.

Each kind is imported when a target of it is created, so that unused ones cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..audio.chime import Chime
from ..audio.effects import Effects
from ..config.target_schema import (
    CommandTarget,
    HermesTarget,
    MqttTarget,
    SnapcastTarget,
    Target,
    UrlTarget,
    WavTarget,
    WyomingTarget,
)
from ..errors import ConfigError
from ..http.recordings import RecordingStore
from .base import Publish, Report, Sink
from .hermes_site import PlayAcks

__all__ = ["Publish", "Report", "Services", "Sink", "make_sink", "preparation"]


@dataclass(frozen=True, slots=True)
class Services:
    """Parts of the daemon that some sinks use; None if a part does not run."""

    publish: Publish | None = None
    base_topic: str = ""
    http: RecordingStore | None = None
    acks: PlayAcks | None = None


def make_sink(name: str, target: Target, services: Services) -> Sink:
    """Return the sink of the target `name`. Raises ConfigError if a service that it needs does not run."""
    match target:
        case CommandTarget():
            from .command import CommandSink

            return CommandSink(target)
        case WyomingTarget():
            from .wyoming import WyomingSink

            return WyomingSink(target)
        case SnapcastTarget():
            from .snapcast import SnapcastSink

            return SnapcastSink(target)
        case WavTarget():
            from .wav_file import WavSink

            return WavSink(name, target)
        case MqttTarget():
            return _mqtt_sink(name, services)
        case UrlTarget():
            return _url_sink(name, target, services)
        case HermesTarget():
            return _hermes_sink(name, target, services)


def preparation(target: Target, volume: float = 1.0, chime: Chime | None = None) -> Effects:
    """Return the effects of an announcement with this volume on that target."""
    return Effects(volume * target.volume, chime, target.lead_silence, target.tail_silence)


def _mqtt_sink(name: str, services: Services) -> Sink:
    from .mqtt import MqttSink

    if services.publish is None:
        raise ConfigError(f"announce.targets.{name}: a target of type mqtt needs a broker (mqtt.host)")
    return MqttSink(services.publish, services.base_topic)


def _hermes_sink(name: str, target: HermesTarget, services: Services) -> Sink:
    from .hermes import HermesSink

    if services.publish is None or services.acks is None:
        raise ConfigError(f"announce.targets.{name}: a target of type hermes needs a broker (mqtt.host)")
    return HermesSink(target, services.publish, services.acks)


def _url_sink(name: str, target: UrlTarget, services: Services) -> Sink:
    from .url import UrlSink

    if services.http is None:
        raise ConfigError(f"announce.targets.{name}: a target of type url needs the HTTP server")
    return UrlSink(target, services.http)
