"""The MQTT broker: whether this daemon is let in there."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from ..config.mqtt_schema import Mqtt
from ..errors import ConfigError
from .findings import Finding, error, ok

if TYPE_CHECKING:
    from ..mqtt.connection import Broker

ANSWER_WITHIN_S = 12.0
"""More than the connection's own time-outs, which know the reason."""


def check_broker(config: Mqtt) -> list[Finding]:
    """Connect under a separate client id and disconnect; return nothing if no broker is configured."""
    if not config.host:
        return []
    from ..mqtt.connection import BrokerError, make_broker

    try:
        broker = make_broker(config, f"qwentts-doctor-{secrets.token_hex(4)}")
        asyncio.run(_visit(broker))
    except (BrokerError, ConfigError) as problem:
        return [error("broker", str(problem), "correct the keys in brackets, or start the broker")]
    except TimeoutError:
        return [error("broker", f"{broker} does not answer", "check the broker and the network path to it (mqtt.host)")]
    return [ok("broker", f"{broker} lets this daemon in{', over TLS' if config.tls else ''}")]


async def _visit(broker: Broker) -> None:
    from ..mqtt.connection import connected

    async with asyncio.timeout(ANSWER_WITHIN_S), connected(broker, lambda _: None):
        pass
