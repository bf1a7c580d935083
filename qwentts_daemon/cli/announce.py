"""Sends one announcement from the command line through the broker, and follows its events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiomqtt

from ..config.schema import Config
from ..errors import ConfigError, StartError
from ..mqtt.connection import BrokerError, Incoming, MqttConnection, connected, make_broker, node_id
from ..mqtt.messages import Topics

ANSWER_TIMEOUT_S = 5.0
LONGEST_SPEECH_S = 900.0
LAST = ("finished", "cancelled", "failed")

Event = Mapping[str, Any]
Post = asyncio.Queue[Incoming | aiomqtt.MqttError]


async def announce(config: Config, say: Mapping[str, object], follow: bool, show: Callable[[Event], None]) -> bool:
    """Publish `say` and show its events. Return whether it was spoken or, without `follow`, sent.

    Raises ConfigError, and StartError if the broker or the daemon does not answer.
    """
    if not config.mqtt.host:
        raise ConfigError("mqtt.host is not set: announcements need an MQTT broker")
    topics = Topics(f"{config.mqtt.base_topic}/{node_id(config.mqtt)}")
    number = secrets.token_hex(6)
    post = Post()
    try:
        async with connected(make_broker(config.mqtt, f"qwentts-announce-{number}"), post.put_nowait) as connection:
            await connection.subscribe([(topics.event, 1), (topics.status, 1)])
            await _require_daemon(post, topics)
            await connection.publish(topics.say, json.dumps({"id": number, **say}), qos=1)
            if not follow:
                return True
            async with _watched(connection, post):
                return await _follow(post, topics, number, show)
    except BrokerError as error:
        raise StartError(str(error)) from error


async def _require_daemon(post: Post, topics: Topics) -> None:
    """Read the daemon's last retained status from the broker."""
    try:
        message = await _next(post, topics.status, ANSWER_TIMEOUT_S)
    except TimeoutError:
        raise StartError(
            f"the broker has not received a status of a daemon at {topics.base}; start the daemon, or correct "
            "mqtt.base_topic and mqtt.node_id"
        ) from None
    if message.payload != b"online":
        raise StartError(f"the daemon at {topics.base} is offline; start it")


async def _follow(post: Post, topics: Topics, number: str, show: Callable[[Event], None]) -> bool:
    """Show the events of an announcement; return whether the last one is `finished`."""
    patience_s = ANSWER_TIMEOUT_S
    while True:
        try:
            message = await _next(post, topics.event, patience_s)
        except TimeoutError:
            raise StartError(f"the daemon did not report on the announcement within {patience_s:g} s") from None
        event: Event = json.loads(message.payload)
        if event.get("id") != number:
            continue
        show(event)
        if event["event_type"] in LAST:
            return bool(event["event_type"] == "finished")
        patience_s = LONGEST_SPEECH_S


async def _next(post: Post, topic: str, timeout_s: float) -> Incoming:
    """Return the next message on a topic. Raises TimeoutError, and MqttError when the connection is lost."""
    async with asyncio.timeout(timeout_s):
        while True:
            message = await post.get()
            if isinstance(message, aiomqtt.MqttError):
                raise message
            if message.topic == topic:
                return message


@contextlib.asynccontextmanager
async def _watched(connection: MqttConnection, post: Post) -> AsyncIterator[None]:
    """Queue the loss of the connection like a message."""

    async def watch() -> None:
        try:
            await connection.alive()
        except aiomqtt.MqttError as error:
            post.put_nowait(error)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(), name="connection")
        try:
            yield
        finally:
            watching.cancel()
