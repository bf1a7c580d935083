"""The kinds of target that an announcement can go to (`announce.targets`): a loudspeaker each, or a way to one."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from .types import Seconds, Section, Silence

FILE_NAME_FIELDS = ("{target}", "{id}", "{time}")


def _check_target_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
        raise ValueError("a target's name has letters, digits, '_' and '-' only")
    return name


def _check_words(words: Any) -> Any:
    if isinstance(words, str):
        raise ValueError("write a list of words, such as [aplay, -q, -]; no shell reads it")
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
        raise ValueError("write a whole path, beginning with / or ~")
    return path


def _check_file_name(name: str) -> str:
    if "/" in name or name.startswith(".") or not name.endswith(".wav") or len(name) > 100 or not name.isprintable():
        raise ValueError("it must be the name of a .wav file, without a directory and without a dot at its beginning")
    if re.search("[{}]", re.sub("|".join(FILE_NAME_FIELDS), "", name)):
        raise ValueError(f"known in braces are {', '.join(FILE_NAME_FIELDS)}")
    return name


def _check_site(site: str) -> str:
    if not re.fullmatch(r"[^+#/\x00-\x1f]{1,100}", site):
        raise ValueError("a site's id has no '+', '#' or '/'")
    return site


TargetName = Annotated[str, AfterValidator(_check_target_name)]
WholePath = Annotated[str, AfterValidator(_check_path)]


class BaseTarget(Section):
    """What every kind of target has; the volume is a factor of the amplitude."""

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
    """Raw chunks on topics of the broker."""

    type: Literal["mqtt"]


class UrlTarget(BaseTarget):
    """An address for players such as Home Assistant's media players."""

    type: Literal["url"]
    timeout: Seconds = 15


class HermesTarget(BaseTarget):
    """A site of Rhasspy, which may also ask for speech."""

    type: Literal["hermes"]
    site: Annotated[str, AfterValidator(_check_site)] = "default"
    timeout: Seconds = 10


Target: TypeAlias = Annotated[
    CommandTarget | WyomingTarget | SnapcastTarget | WavTarget | MqttTarget | UrlTarget | HermesTarget,
    Field(discriminator="type"),
]
