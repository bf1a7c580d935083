"""Section `mqtt` of the configuration."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from .types import Seconds, Section


def _check_host(host: str) -> str:
    if host.startswith("unix://"):
        if not host.startswith("unix:///"):
            raise ValueError("write it as unix:///PATH, with three slashes")
    elif not re.fullmatch(r"[A-Za-z0-9._:-]+", host) or host.count(":") == 1:
        raise ValueError("write a host name, an address, or unix:///PATH; set the port in mqtt.port")
    return host


def _check_node(node: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", node):
        raise ValueError("a node id may contain letters, digits, '_' and '-' only (60 at most)")
    return node


def _check_topic(topic: str) -> str:
    if not re.fullmatch(r"[^+#\x00-\x1f/]+(/[^+#\x00-\x1f/]+)*", topic):
        raise ValueError("a topic must not contain '+' or '#', or begin or end with '/'")
    return topic


Topic = Annotated[str, AfterValidator(_check_topic), Field(max_length=200)]


class Mqtt(Section):
    """The broker, and the topics and device of this daemon. MQTT is off without a host."""

    host: Annotated[str, AfterValidator(_check_host)] | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    protocol: Literal["5", "3.1.1"] = "5"
    username: str | None = None
    password: SecretStr | None = None
    password_file: str | None = None
    client_id: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    base_topic: Topic = "qwentts"
    node_id: Annotated[str, AfterValidator(_check_node)] | None = None
    discovery: bool = True
    discovery_prefix: Topic = "homeassistant"
    session_expiry: Annotated[float, Field(ge=0, le=604_800)] = 300
    keepalive: Annotated[float, Field(ge=5, le=3600)] = 30
    reconnect_delay_max: Seconds = 3

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.password and self.password_file:
            raise ValueError("set password or password_file, not both")
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("ca_file, cert_file and key_file need tls: true")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file")
        if (self.password or self.password_file) and not self.username:
            raise ValueError("a password needs username")
        return self
