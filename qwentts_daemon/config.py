"""The configuration: a YAML file, QWENTTS_<SECTION>_<KEY> and the command line, checked once and strictly.

Later sources win: default < file < environment < command line. Each default stands here and nowhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigError

ENV_PREFIX = "QWENTTS_"
ENV_CONFIG = "QWENTTS_CONFIG"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _check_uri(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme == "tcp":
        if not parts.hostname or parts.port is None:
            raise ValueError("write it as tcp://HOST:PORT, for example tcp://0.0.0.0:10200")
    elif parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise ValueError("write it as unix:///PATH, with three strokes")
    elif uri != "stdio://":
        raise ValueError("it must begin with tcp://, unix:// or be stdio://")
    return uri


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


def check_language(tag: str) -> str:
    """Raises ValueError for what is no language tag."""
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*", tag):
        raise ValueError("write a language tag such as de-DE or fr")
    return tag


def _check_name(name: str) -> str:
    if not name or set(name) & set("@+ \t\n"):
        raise ValueError("a name has no blanks, no '@' and no '+'")
    return name


def _as_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _check_devices(devices: tuple[str, ...]) -> tuple[str, ...]:
    for device in devices:
        if not re.fullmatch(r"auto|all|cpu|cuda(:\d+)?", device):
            raise ValueError(f"{device!r:.20}: it must be auto, all, cpu, cuda or cuda:NUMBER")
    numbers = [int(device.partition(":")[2] or 0) for device in devices if device.startswith("cuda")]
    if len(devices) > 1 and len(numbers) < len(devices):
        raise ValueError("auto, all and cpu stand alone")
    if len(set(numbers)) < len(numbers):
        raise ValueError("a GPU stands there twice")
    return devices


def _check_model(model: str) -> str:
    if not model.startswith((".", "/", "~")) and not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise ValueError("it must be a directory (begin it with /, ./ or ~) or a hub id of the form owner/name")
    return model


Language = Annotated[str, AfterValidator(check_language)]
Name = Annotated[str, AfterValidator(_check_name)]
Devices = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_as_several), AfterValidator(_check_devices)]
Share = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(ge=0.01, le=100)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Wyoming(Section):
    """The server that Home Assistant talks to."""

    uri: Annotated[str, AfterValidator(_check_uri)] = "tcp://0.0.0.0:10200"
    name: Annotated[str, Field(min_length=1, max_length=60)] = "qwen-tts"
    zeroconf: bool = True
    max_connections: Count = 64
    idle_timeout: Seconds = 60
    write_timeout: Seconds = 30


class Engine(Section):
    """What makes the speech."""

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
    job_timeout: Seconds = 120
    heartbeat_timeout: Annotated[float, Field(ge=3, allow_inf_nan=False)] = 30
    restart_delay_max: Seconds = 30


class Sampling(Section):
    """How the Qwen3 model draws sounds, under the names of its generation_config.json; None: as that file says."""

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
    """How voices are named and found."""

    dir: str | None = None
    default: str | None = None
    language: Language | None = None
    pin_languages: tuple[Language, ...] = ()
    styles: dict[Name, str] = {}
    aliases: dict[Name, str] = {}


class Audio(Section):
    """Silence around and inside replies."""

    trim_silence: bool = False
    lead_silence: Annotated[float, Field(ge=0, le=10)] = 0.0
    tail_silence: Annotated[float, Field(ge=0, le=10)] = 0.0
    stall_silence: Seconds = 1.5
    stall_silence_max: Annotated[float, Field(ge=0, le=300)] = 20.0


class Replacement(Section):
    """One user rule: a regular expression and what is said instead."""

    regex: Annotated[str, AfterValidator(_check_pattern)]
    replace: str

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        try:
            re.sub(f"{self.regex}|", self.replace, "")
        except (re.error, IndexError) as error:
            raise ValueError(f"replace does not fit regex: {error}") from None
        return self


class Text(Section):
    """How text is made speakable."""

    max_length: Count = 5000
    strip_markdown: bool = True
    strip_emoji: bool = True
    strip_urls: bool = True
    strip_code_blocks: bool = True
    replacements: tuple[Replacement, ...] = ()


class Queue(Section):
    """Replies that wait for the engine."""

    max_size: Count = 32
    max_wait: Seconds = 30


class Daemon(Section):
    """The process itself."""

    shutdown_timeout: Annotated[float, Field(ge=0)] = 10


class Log(Section):
    """What is written to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(Section):
    """Everything that can be set; immutable once read."""

    wyoming: Wyoming = Wyoming()
    engine: Engine = Engine()
    sampling: Sampling = Sampling()
    voices: Voices = Voices()
    audio: Audio = Audio()
    text: Text = Text()
    queue: Queue = Queue()
    daemon: Daemon = Daemon()
    log: Log = Log()


def voices_dir(config: Config, environment: Mapping[str, str]) -> Path:
    """The folder of cloned and designed voices: `voices.dir`, a service's own state, or the user's."""
    if config.voices.dir:
        return Path(config.voices.dir).expanduser().absolute()
    if state := environment.get("STATE_DIRECTORY", "").partition(":")[0]:  # systemd names it
        return Path(state) / "voices"
    home = environment.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "qwentts" / "voices"


def load(path: Path | None, environment: Mapping[str, str], settings: Sequence[str] = ()) -> Config:
    """Read every source. `settings` are `section.key=value` words of the command line. Raises ConfigError."""
    values = _read_file(path) if path else {}
    _merge(values, _from_environment(environment))
    _merge(values, dict(_from_setting(word) for word in settings))
    return _validate(values, str(path) if path else "configuration")


# --- sources --------------------------------------------------------------------------------------------------

Values = dict[str, Any]
Key = tuple[str, str]


def _read_file(path: Path) -> Values:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as of a date that does not exist
        raise ConfigError(f"{path}: no valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections such as `wyoming:`, found a {type(document).__name__}")
    return document


def _from_environment(environment: Mapping[str, str]) -> dict[Key, Any]:
    known = {
        f"{ENV_PREFIX}{section}_{key}".upper(): (section, key)
        for section, field in Config.model_fields.items()
        for key in _keys(field.default)
    }
    given = {name: text for name, text in environment.items() if name.startswith(ENV_PREFIX) and name != ENV_CONFIG}
    for name in given:
        if name not in known:
            raise ConfigError(f"environment variable {name}: unknown{_nearest(name, known)}")
    return {known[name]: _parse_value(text, name) for name, text in given.items()}


def _from_setting(word: str) -> tuple[Key, Any]:
    path, equals, text = word.partition("=")
    section, dot, key = path.partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"--set {word}: write it as section.key=value")
    return (section, key), _parse_value(text, f"--set {path}")


def _parse_value(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: no valid YAML value: {text!r:.80}") from error


def _merge(values: Values, changes: Mapping[Key, Any]) -> None:
    for (section, key), value in changes.items():
        inside = values.get(section)
        if inside is not None and not isinstance(inside, dict):
            return  # validation names it
        values[section] = {**(inside or {}), key: value}


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice; YAML itself would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is no word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# --- validation -----------------------------------------------------------------------------------------------


def _validate(values: Values, source: str) -> Config:
    filled = {section: inside for section, inside in values.items() if inside is not None}
    try:
        return Config.model_validate(_lists_to_tuples(filled))
    except ValidationError as error:
        problems = [_explain(dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(problems)) from None


def _explain(problem: Mapping[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{_nearest(path[-1], _siblings(path))}"
    reason = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {reason[:1].lower()}{reason[1:]} (found {problem['input']!r:.60})"


def _siblings(path: Sequence[str]) -> list[str]:
    if len(path) == 1:
        return list(Config.model_fields)
    return _keys(Config.model_fields[path[0]].default) if len(path) == 2 else list(Replacement.model_fields)


def _keys(section: Section) -> list[str]:
    return list(type(section).model_fields)


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"


def _lists_to_tuples(value: Any) -> Any:
    """YAML knows lists only; immutable sections hold tuples."""
    if isinstance(value, dict):
        return {key: _lists_to_tuples(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(inside) for inside in value)
    return value
