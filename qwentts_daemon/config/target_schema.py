"""The types of target for announcements (`announce.targets`)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from .types import Seconds, Section, Silence

FILE_NAME_FIELDS = ("{target}", "{id}", "{time}")


def _check_target_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
        raise ValueError("a target name may contain letters, digits, '_' and '-' only (60 at most)")
    return name


def _check_words(words: Any) -> Any:
    if isinstance(words, str):
        raise ValueError("write a list of arguments, such as [aplay, -q, -]; it is run without a shell")
    return words


def _check_snd_uri(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        return uri
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return uri
    raise ValueError("write it as tcp://HOST:PORT or unix:///PATH")


def _check_path(path: str) -> str:
    if not path.startswith(("/", "~")):
        raise ValueError("write an absolute path, or one that begins with ~")
    return path


def _check_file_name(name: str) -> str:
    if "/" in name or name.startswith(".") or not name.endswith(".wav") or len(name) > 100 or not name.isprintable():
        raise ValueError(
            "it must be a file name that ends with .wav, without a directory or a leading dot (100 characters at most)"
        )
    if re.search("[{}]", re.sub("|".join(FILE_NAME_FIELDS), "", name)):
        raise ValueError(f"unknown field in braces; use {', '.join(FILE_NAME_FIELDS)}")
    return name


def _check_site(site: str) -> str:
    if not re.fullmatch(r"[^+#/\x00-\x1f]{1,100}", site):
        raise ValueError("a site id must not contain '+', '#' or '/' (100 characters at most)")
    return site


TargetName = Annotated[str, AfterValidator(_check_target_name)]
WholePath = Annotated[str, AfterValidator(_check_path)]


class BaseTarget(Section):
    """The keys of every type of target; `volume` is a factor of the amplitude."""

    volume: Annotated[float, Field(ge=0, le=1)] = 1.0
    lead_silence: Silence = 0.0
    tail_silence: Silence = 0.0


class CommandTarget(BaseTarget):
    """A program that plays raw signed 16-bit mono samples from its standard input."""

    type: Literal["command"]
    command: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_check_words)]
    timeout: Seconds = 10


class WyomingTarget(BaseTarget):
    """A Wyoming sound server, such as wyoming-snd-external."""

    type: Literal["wyoming"]
    uri: Annotated[str, AfterValidator(_check_snd_uri)]
    timeout: Seconds = 10


class SnapcastTarget(BaseTarget):
    """The FIFO of a snapserver's pipe source at 48000:16:2."""

    type: Literal["snapcast"]
    fifo: WholePath
    timeout: Seconds = 5


class WavTarget(BaseTarget):
    """A WAV file for each announcement."""

    type: Literal["wav"]
    directory: WholePath
    name: Annotated[str, AfterValidator(_check_file_name)] = "{target}.wav"


class MqttTarget(BaseTarget):
    """Topics of the broker on which raw audio chunks are published."""

    type: Literal["mqtt"]


class UrlTarget(BaseTarget):
    """A URL for players such as Home Assistant's media players."""

    type: Literal["url"]
    timeout: Seconds = 15


class HermesTarget(BaseTarget):
    """A Rhasspy site, which may also request speech."""

    type: Literal["hermes"]
    site: Annotated[str, AfterValidator(_check_site)] = "default"
    timeout: Seconds = 10


Target: TypeAlias = Annotated[
    CommandTarget | WyomingTarget | SnapcastTarget | WavTarget | MqttTarget | UrlTarget | HermesTarget,
    Field(discriminator="type"),
]
