"""Maintains the connection to the broker: reconnects after a loss, and logs each problem once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from ..errors import ConfigError, SinkError
from .connection import Broker, BrokerError, Incoming, MqttConnection, connected
from .publisher import Message, Publisher

FIRST_PAUSE_S = 0.2
STEADY_AFTER_S = 10.0
GOODBYE_TIMEOUT_S = 1.0
ONLINE, OFFLINE = b"online", b"offline"

log = logging.getLogger(__name__)


class Bridge:
    """Sends queued messages and passes on incoming ones while a broker is connected."""

    def __init__(self, broker: Broker, publisher: Publisher, status_topic: str) -> None:
        self._broker = broker
        self._publisher = publisher
        self._status_topic = status_topic
        self._connection: MqttConnection | None = None
        self._connected_s: float | None = None
        self._complaints: set[str] = set()
        self._is_news = True  # that there is a connection

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish one message now or not at all. Raises SinkError if no broker is connected."""
        if self._connection is None:
            raise SinkError(f"{self._broker} is not connected")
        try:
            await self._connection.publish(topic, payload, qos=0)
        except aiomqtt.MqttError as error:
            raise SinkError(f"{self._broker}: {error}") from error
        _end_if_cancelled()

    async def run(self, take: Callable[[Incoming], None], topics: Sequence[str]) -> None:
        """Run until cancelled, passing messages on `topics` to `take`."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._connected_s = None
            try:
                await self._live_once(take, topics)
            except (BrokerError, ConfigError) as error:
                if self._has_lasted:
                    pause_s = FIRST_PAUSE_S
                    self._complaints.clear()
                self._complain(str(error))
            except Exception:
                log.exception("MQTT: internal error; a new connection is made")
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, self._broker.config.reconnect_delay_max)

    @property
    def _has_lasted(self) -> bool:
        return self._connected_s is not None and time.monotonic() - self._connected_s > STEADY_AFTER_S

    async def _live_once(self, take: Callable[[Incoming], None], topics: Sequence[str]) -> None:
        """Handle one connection until it is lost."""
        will = aiomqtt.Will(self._status_topic, OFFLINE, qos=1, retain=True)
        async with connected(self._broker, take, will, lasting=True) as connection:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(connection.alive(), name="connection")
                    tasks.create_task(self._serve(connection, topics), name="publisher")
            except ExceptionGroup as group:
                if group.split(aiomqtt.MqttError)[1]:
                    raise
                raise group.exceptions[0] from group.exceptions[0].__cause__
            except asyncio.CancelledError:
                await self._say_goodbye(connection)
                raise
            finally:
                self._connection = None

    async def _serve(self, connection: MqttConnection, topics: Sequence[str]) -> None:
        await self._subscribe(connection, topics)
        level = logging.INFO if self._is_news else logging.DEBUG
        log.log(level, "MQTT: connected to %s as %s", self._broker, self._broker.client_id)
        self._connection, self._connected_s = connection, time.monotonic()
        self._publisher.show_again()
        self._publisher.show(self._status_topic, ONLINE)
        await self._publisher.send(lambda message: self._post(connection, message), _end_if_cancelled)

    async def _subscribe(self, connection: MqttConnection, topics: Sequence[str]) -> None:
        answers = await connection.subscribe([(topic, 1) for topic in topics])
        for topic, answer in zip(topics, answers, strict=True):
            if isinstance(answer, ReasonCode) and answer.is_failure:
                log.error("MQTT: %s does not let us listen to %s; look at its ACL", self._broker, topic)

    async def _post(self, connection: MqttConnection, message: Message) -> None:
        properties = None
        if message.correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = message.correlation
        await connection.publish(
            message.topic, message.payload, qos=1 if message.retain else 0, retain=message.retain, properties=properties
        )
        if message.retain and connection.refusal:
            self._complain(
                f"{self._broker} does not let us show {message.topic} ({connection.refusal}); look at its ACL"
            )

    async def _say_goodbye(self, connection: MqttConnection) -> None:
        """Publish the last events and `offline`: the will is sent only after an unclean disconnect."""
        with contextlib.suppress(TimeoutError, aiomqtt.MqttError):
            async with asyncio.timeout(GOODBYE_TIMEOUT_S):
                await self._publisher.flush(lambda message: self._post(connection, message))
                await self._post(connection, Message(self._status_topic, OFFLINE, retain=True))

    def _complain(self, reason: str) -> None:
        """Log each reason once until a connection has lasted: two clients with one id disconnect each other forever."""
        self._is_news = reason not in self._complaints
        log.log(
            logging.WARNING if self._is_news else logging.DEBUG, "MQTT: %s; it is tried again until it works", reason
        )
        self._complaints.add(reason)


def _end_if_cancelled() -> None:
    """Python 3.11 loses a cancellation that arrives in the same loop iteration as the awaited result of aiomqtt."""
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError
