"""Sinks: the ways from speech to a loudspeaker, one for each kind of target in the configuration.

Each kind is imported when a target of it is made, so that nobody pays for what he does not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..chime import Chime
from ..sound import Preparation
from ..targets import CommandTarget, Target
from .sink import Report, Sink, SinkError

__all__ = ["Publish", "Report", "Services", "Sink", "SinkError", "make_sink", "preparation"]


class Publish(Protocol):
    """Sends one MQTT message. Raises SinkError when there is no broker."""

    async def __call__(self, topic: str, payload: bytes, retain: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What some sinks need of the rest of the daemon; None where it does not run."""

    publish: Publish | None = None
    base_topic: str = ""


def make_sink(name: str, target: Target, services: Services) -> Sink:
    """The sink of the target `name`. Raises ConfigError when a service that it needs does not run."""
    match target:
        case CommandTarget():
            from .command import CommandSink

            return CommandSink(target)
    raise AssertionError(target)


def preparation(target: Target, volume: float = 1.0, chime: Chime | None = None) -> Preparation:
    """How an announcement of this volume sounds on that target."""
    return Preparation(volume * target.volume, chime, target.lead_silence, target.tail_silence)
