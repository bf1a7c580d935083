"""One connection to the broker, and in plain words why it failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from ..config.mqtt_schema import Mqtt
from ..errors import ConfigError, QwenTtsError

ANSWER_TIMEOUT_S = 5.0
MAX_PACKET_BYTES = 1 << 20
"""Largest packet that the broker may send, in protocols that can limit it (MQTT 5)."""
CREDENTIAL = "mqtt_password"
_EXPIRED, _NOT_YET_VALID, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_… of OpenSSL


class BrokerError(QwenTtsError):
    """The broker is not connected."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """An incoming message; `repeated`: the broker may have sent it before."""

    topic: str
    payload: bytes
    retained: bool
    repeated: bool
    number: int
    response_topic: str | None = None
    correlation: bytes | None = None
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """The address of the broker, and this daemon's identity there."""

    config: Mqtt
    client_id: str
    environment: Mapping[str, str]

    @property
    def path(self) -> str | None:
        """Return the path of its unix socket, if it has one."""
        host = self.config.host or ""
        return host.removeprefix("unix://") if host.startswith("unix://") else None

    @property
    def port(self) -> int:
        return self.config.port or (8883 if self.config.tls else 1883)

    def __str__(self) -> str:
        return self.config.host if self.path and self.config.host else f"{self.config.host}:{self.port}"

    def password(self) -> str | None:
        """Return the password from the configuration, a file or a systemd credential. Raises ConfigError."""
        if self.config.password:
            return self.config.password.get_secret_value()
        handed_over = Path(self.environment.get("CREDENTIALS_DIRECTORY", "")) / CREDENTIAL
        if self.config.password_file:
            return _read(Path(self.config.password_file).expanduser(), "mqtt.password_file")
        if self.environment.get("CREDENTIALS_DIRECTORY") and handed_over.exists():
            return _read(handed_over, f"the credential {CREDENTIAL}")
        return None

    def tls_context(self) -> ssl.SSLContext | None:
        """Return a new context for each connection, since certificates are renewed. Raises ConfigError."""
        if not self.config.tls:
            return None
        own_ca = self._file("ca_file")
        context = ssl.create_default_context(cafile=own_ca)
        if own_ca:
            # From Python 3.13 on; certificates made by hand for a house often lack the extensions that it asks for.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if certificate := self._file("cert_file"):
            try:
                context.load_cert_chain(certificate, self._file("key_file"), password=_no_password)
            except (OSError, ValueError) as error:
                raise ConfigError(f"mqtt.cert_file {certificate}: it does not match mqtt.key_file: {error}") from error
        return context

    def _file(self, key: str) -> str | None:
        name = getattr(self.config, key)
        if name is None:
            return None
        path = Path(name).expanduser()
        _read(path, f"mqtt.{key}")
        if key == "ca_file":
            try:
                ssl.create_default_context(cafile=path)
            except ssl.SSLError as error:
                raise ConfigError(f"mqtt.ca_file {path}: it holds no certificate") from error
        return str(path)


def make_broker(config: Mqtt, client_id: str) -> Broker:
    """Return the configured broker after checking its files. Raises ConfigError."""
    broker = Broker(config, client_id, os.environ)
    broker.password()
    broker.tls_context()
    return broker


def node_id(config: Mqtt) -> str:
    """Return the id of this daemon at the broker: by default this machine's name."""
    return config.node_id or re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:60] or "daemon"


def _no_password() -> str:
    raise ValueError("the key needs a passphrase, which cannot be entered at startup; remove it from the key")


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key} {path}: {getattr(error, 'strerror', None) or error}") from error


class _LastWords(logging.Handler):
    """Collects warnings of paho: they are not logged, but explain the end of a connection."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class MqttConnection(aiomqtt.Client):
    """Passes on every message as it arrives.

    aiomqtt's own queue drops what does not fit without telling, and hides which messages are repeats; so the callback
    that fills it is replaced. `alive` takes the place of its iterator.
    """

    def __init__(self, broker: Broker, take: Callable[[Incoming], None], will: aiomqtt.Will | None, lasting: bool):
        """`lasting`: the broker keeps commands while the daemon is disconnected."""
        self._take = take
        self.refusal: ReasonCode | None = None  # of the last message that the broker has answered (MQTT 5)
        self.last_words = _LastWords()
        complaints = logging.Logger("paho", logging.WARNING)
        complaints.addHandler(self.last_words)
        version5 = broker.config.protocol == "5"
        session: dict[str, Any] = {"clean_session": not lasting}
        if version5:
            session = {"clean_start": not lasting, "properties": _connect_properties(broker.config, lasting)}
        super().__init__(
            broker.path or broker.config.host or "",
            broker.port,
            identifier=broker.client_id,
            username=broker.config.username,
            password=broker.password(),
            tls_context=broker.tls_context(),
            transport="unix" if broker.path else "tcp",
            protocol=aiomqtt.ProtocolVersion.V5 if version5 else aiomqtt.ProtocolVersion.V311,
            will=will,
            keepalive=round(broker.config.keepalive),
            timeout=ANSWER_TIMEOUT_S,
            logger=complaints,
            **session,
        )

    async def alive(self) -> None:
        """Wait until the connection is lost, then raise MqttError."""
        async for _ in self.messages:
            pass

    async def leave(self) -> None:
        """Disconnect cleanly; a lost connection is ignored from then on."""
        with contextlib.suppress(aiomqtt.MqttError):
            await self.__aexit__(None, None, None)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # otherwise asyncio warns that it was never retrieved

    def _on_publish(
        self, client: paho.Client, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self.refusal = reason_code if reason_code.is_failure else None
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._take(_incoming(message))


def _connect_properties(config: Mqtt, lasting: bool) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = round(config.session_expiry) if lasting else 0
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    return properties


def _incoming(message: paho.MQTTMessage) -> Incoming:
    properties = message.properties
    return Incoming(
        topic=message.topic,
        payload=bytes(message.payload),
        retained=message.retain,
        repeated=message.dup,
        number=message.mid,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expires_s=getattr(properties, "MessageExpiryInterval", None),
    )


@contextlib.asynccontextmanager
async def connected(
    broker: Broker, take: Callable[[Incoming], None], will: aiomqtt.Will | None = None, lasting: bool = False
) -> AsyncIterator[MqttConnection]:
    """Keep a connection while the context is open. Raises BrokerError, also when it is lost, and ConfigError."""
    connection, met = MqttConnection(broker, take, will, lasting), False
    try:
        await _enter(connection)
        met = True
        try:
            yield connection
        finally:
            await connection.leave()
    except (aiomqtt.MqttError, OSError, ValueError) as error:
        raise BrokerError(explain(error, broker, connection.last_words.text, met)) from error


async def _enter(connection: MqttConnection) -> None:
    """aiomqtt connects in a thread that cannot be stopped, so a cancelled caller waits for its end."""
    entering = asyncio.create_task(connection.__aenter__(), name="connect to the broker")
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        with contextlib.suppress(aiomqtt.MqttError):
            await entering
            await connection.leave()
        raise


# --- why not --------------------------------------------------------------------------------------------------


def explain(error: BaseException, broker: Broker, last_words: str, met: bool) -> str:
    """Return an explanation with a remedy; `met`: the broker has accepted us before."""
    cause = error.__cause__ or error.__context__ or error  # aiomqtt keeps only the text of an OSError
    code = _reason_code(error) or _reason_code(cause)
    if code and code.packetType == PacketTypes.CONNACK:
        return _refusal(code, broker)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{broker}: {_certificate_problem(cause)}"
    if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
        return f"{broker} does not speak TLS (mqtt.tls, mqtt.port)"
    if broker.config.tls and isinstance(cause, ConnectionResetError | ssl.SSLEOFError):
        return f"{broker} hangs up; does it speak TLS at this port (mqtt.tls, mqtt.port)?"
    if isinstance(cause, socket.gaierror):
        return f"{broker}: no such host ({cause.strerror})"
    if isinstance(cause, OSError) and cause.errno:
        return f"{broker}: {os.strerror(cause.errno)}" if cause.errno > 0 else f"{broker}: {cause}"
    if "alert" in last_words:
        alert = last_words.partition("] ")[2].partition(" (")[0] or last_words
        return f"{broker} refuses this client's certificate (mqtt.cert_file): {alert}"
    if code and str(code) == "Session taken over":
        return f"{broker}: another client has come with the name {broker.client_id} (mqtt.client_id, mqtt.node_id)"
    if code and str(code) == "Unspecified error":  # paho's name for a connection that ends without a word
        namesake = f"another client may have the name {broker.client_id} (mqtt.client_id, mqtt.node_id)"
        return f"{broker} closes the connection without a reason; if that continues, {namesake}"
    if code:
        return f"{broker}: {str(code).lower()}"
    if "timed out" in str(error):
        hint = "" if met or broker.config.tls else "; does it want TLS (mqtt.tls)?"
        return f"{broker} does not answer{hint}"
    return f"{broker}: {str(cause) or type(cause).__name__}"


def _reason_code(error: BaseException) -> ReasonCode | None:
    """Return the reason that the broker sent."""
    return error.rc if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode) else None


def _refusal(code: ReasonCode, broker: Broker) -> str:
    name = str(code)
    if name in ("Bad user name or password", "Not authorized"):
        user = f"user {broker.config.username!r}" if broker.config.username else "a client without a user name"
        return f"{broker} refuses {user}: wrong user name or password (mqtt.username, mqtt.password_file)"
    return f"{broker} refuses the connection: {name.lower()}"


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "the broker's certificate has expired"
    if error.verify_code == _NOT_YET_VALID:
        return "the broker's certificate is not valid yet; is this machine's clock right?"
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        return f"the broker's certificate is for another name: {error.verify_message}"
    return f"the broker's certificate is not signed by a trusted CA (mqtt.ca_file): {error.verify_message}"
