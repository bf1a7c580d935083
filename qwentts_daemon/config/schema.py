"""Every key of the configuration with its type, bounds and default."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import regex
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from .mqtt_schema import Mqtt
from .target_schema import Target, TargetName
from .types import Count, Seconds, Section, Silence


def _check_uri(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme == "tcp":
        if not parts.hostname or parts.port is None:
            raise ValueError("write it as tcp://HOST:PORT, for example tcp://0.0.0.0:10200")
    elif parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise ValueError("write it as unix:///PATH, with three slashes")
    elif uri != "stdio://":
        raise ValueError("it must begin with tcp:// or unix://, or be stdio://")
    return uri


def _check_public_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("write it as http://HOST:PORT, the address at which players reach this machine")
    return url.rstrip("/")


def _check_quiet_hours(words: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", words) or words[:5] == words[6:]:
        raise ValueError("write two different times of day, such as 22:00-07:00")
    return words


def _check_pattern(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


def check_language(tag: str) -> str:
    """Return a language tag unchanged. Raises ValueError if it is not one."""
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*", tag):
        raise ValueError("write a language tag such as de-DE or fr")
    return tag


def _check_name(name: str) -> str:
    if not name or set(name) & set("@+ \t\n"):
        raise ValueError("a name must not be empty or contain spaces, '@' or '+'")
    return name


def _as_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _check_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    for device in devices:
        if not re.fullmatch(r"auto|all|cpu|cuda(:\d+)?", device):
            raise ValueError(f"{device!r:.20}: it must be auto, all, cpu, cuda or cuda:NUMBER")
    numbers = [int(device.partition(":")[2] or 0) for device in devices if device.startswith("cuda")]
    if len(devices) > 1 and len(numbers) < len(devices):
        raise ValueError("auto, all and cpu must be the only element of the list")
    if len(set(numbers)) < len(numbers):
        raise ValueError("a GPU is listed twice")
    return devices


def _check_model(model: str) -> str:
    if not model.startswith((".", "/", "~")) and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError("it must be a directory (begin it with /, ./ or ~) or a hub id of the form owner/name")
    return model


def _as_network(network: Any) -> Any:
    if not isinstance(network, str):
        return network
    try:
        return ip_network(network)
    except ValueError as error:
        raise ValueError(f"write a network such as 192.168.0.0/16 or fd00::/8: {error}") from None


PRIVATE_NETWORKS = tuple(
    ip_network(network)
    for network in (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
        "::1/128", "fe80::/10", "fc00::/7",
    )
)  # fmt: skip
"""Loopback, private and link-local networks, and the shared address space of VPNs such as Tailscale."""

Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_as_network), PlainSerializer(str)]
Language = Annotated[
    str,
    BeforeValidator(lambda tag: "no" if tag is False else tag),  # YAML 1.1 parses the tag of Norwegian as a boolean
    AfterValidator(check_language),
]
Name = Annotated[str, AfterValidator(_check_name)]
Devices = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_as_several), AfterValidator(_check_devices)]
Share = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0.01, le=100)]


class Wyoming(Section):
    """The server that Home Assistant connects to."""

    uri: Annotated[str, AfterValidator(_check_uri)] = "tcp://0.0.0.0:10200"
    name: Annotated[str, Field(min_length=1, max_length=60)] = "qwen-tts"
    zeroconf: bool = True
    allow_networks: Annotated[tuple[Network, ...], Field(min_length=1)] = PRIVATE_NETWORKS
    max_connections: Count = 64
    max_connections_per_address: Count = 32
    max_requests_per_minute: Count = 300
    idle_timeout: Seconds = 60
    write_timeout: Seconds = 30


class Engine(Section):
    """Speech synthesis."""

    backend: Literal["auto", "qwen3", "espeak"] = "auto"
    fallback: bool = True
    model: Annotated[str, AfterValidator(_check_model)] = "Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice"
    revision: str | None = None
    offline: bool = False
    cache_dir: str | None = None
    devices: Devices = ("auto",)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    codec_dtype: Literal["auto", "float16", "float32"] = "auto"
    kernels: Literal["auto", "fused", "compiled", "plain"] = "auto"
    cuda_graphs: bool = True
    max_jobs: Annotated[int, Field(ge=1, le=256)] = 4
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    keep_alive: Annotated[float, Field(allow_inf_nan=False)] | None = -1
    job_timeout: Seconds = 120
    heartbeat_timeout: Annotated[float, Field(ge=3, allow_inf_nan=False)] = 30
    restart_delay_max: Seconds = 30

    @property
    def keep_alive_s(self) -> float | None:
        """Seconds until an idle model is unloaded; None: never, configured as null or a negative number."""
        return None if self.keep_alive is None or self.keep_alive < 0 else self.keep_alive


class Sampling(Section):
    """Sampling of the Qwen3 model, by the names of its generation_config.json; None: the value in that file."""

    do_sample: bool | None = None
    temperature: Temperature | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Share | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    subtalker_dosample: bool | None = None
    subtalker_temperature: Temperature | None = None
    subtalker_top_k: Annotated[int, Field(ge=0)] | None = None
    subtalker_top_p: Share | None = None
    max_new_tokens: Count | None = None


class Voices(Section):
    """Names and sources of voices."""

    dir: str | None = None
    default: str | None = None
    language: Language | None = None
    pin_languages: tuple[Language, ...] = ()
    styles: dict[Name, str] = {}
    aliases: dict[Name, str] = {}


class Audio(Section):
    """Silence around and inside replies."""

    trim_silence: bool = False
    lead_silence: Silence = 0.0
    tail_silence: Silence = 0.0
    stall_silence: Seconds = 1.5
    stall_silence_max: Annotated[float, Field(ge=0, le=300)] = 20.0


class Replacement(Section):
    """A replacement rule: a regular expression and its replacement."""

    regex: Annotated[str, AfterValidator(_check_pattern)]
    replace: str

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        try:
            regex.sub(f"{self.regex}|", self.replace, "")
        except (regex.error, IndexError) as error:
            raise ValueError(f"replace does not match the groups of regex: {error}") from None
        return self


class Text(Section):
    """Preparation of text for speaking."""

    max_length: Count = 5000
    timeout: Seconds = 600
    stall: Seconds = 1.5
    strip_markdown: bool = True
    strip_emoji: bool = True
    strip_urls: bool = True
    strip_code_blocks: bool = True
    strip_machine_text: bool = True
    strip_sources: bool = True
    replacements: tuple[Replacement, ...] = ()


class Queue(Section):
    """Replies that wait for the engine."""

    max_size: Count = 32
    max_wait: Seconds = 30


class Announce(Section):
    """Announcements, speech that a voice assistant did not request, and their targets."""

    targets: dict[TargetName, Target] = {}
    default_targets: tuple[TargetName, ...] = ()
    max_waiting: Annotated[int, Field(ge=1, le=1000)] = 32
    max_jobs: Annotated[int, Field(ge=1, le=256)] = 1
    expires: Seconds = 300
    coalesce: bool = False
    quiet_hours: Annotated[str, AfterValidator(_check_quiet_hours)] | None = None
    chime: bool = False
    chime_file: str | None = None

    @model_validator(mode="after")
    def _check_defaults(self) -> Self:
        for name in self.default_targets:
            if name not in self.targets:
                raise ValueError(f"default_targets: unknown target {name!r}; define it in announce.targets")
            if self.default_targets.count(name) > 1:
                raise ValueError(f"default_targets: the target {name!r} is listed twice")
        return self


class Http(Section):
    """The HTTP server for recordings; it runs if a target of type `url` needs it, or with `enabled`."""

    enabled: bool = False
    host: Annotated[str, Field(min_length=1)] = "0.0.0.0"
    port: Annotated[int, Field(ge=0, le=65_535)] = 10_280
    public_url: Annotated[str, AfterValidator(_check_public_url)] | None = None
    keep: Seconds = 600
    cache_dir: str | None = None
    cache_megabytes: Count = 256
    max_listeners: Count = 32


class Daemon(Section):
    """The daemon process."""

    shutdown_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10


class Log(Section):
    """The log on stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "plain", "journal", "json"] = "auto"


class Config(Section):
    """The complete configuration; immutable."""

    wyoming: Wyoming = Wyoming()
    engine: Engine = Engine()
    sampling: Sampling = Sampling()
    voices: Voices = Voices()
    audio: Audio = Audio()
    text: Text = Text()
    queue: Queue = Queue()
    announce: Announce = Announce()
    mqtt: Mqtt = Mqtt()
    http: Http = Http()
    daemon: Daemon = Daemon()
    log: Log = Log()
