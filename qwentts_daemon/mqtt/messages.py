"""The topics of one daemon, and the parsing of messages on them.

A payload is checked here and nowhere else. It never names a file or an address to read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

MAX_PAYLOAD_BYTES = 16 * 1024
ID_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}$"
SETTINGS = ("voice", "language", "style", "volume")
MAX_PROBLEMS = 3
SWITCHES = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Topics:
    """`qwentts/<node>/…`"""

    base: str

    @property
    def status(self) -> str:
        return f"{self.base}/status"

    @property
    def state(self) -> str:
        return f"{self.base}/state"

    @property
    def settings(self) -> str:
        return f"{self.base}/settings"

    @property
    def event(self) -> str:
        return f"{self.base}/event"

    @property
    def say(self) -> str:
        return f"{self.base}/say/set"

    def button(self, name: str) -> str:
        """Return the topic of `stop`, `clear`, `reload` or `unload`."""
        return f"{self.base}/{name}"

    def setting(self, name: str) -> str:
        return f"{self.base}/{name}/set"

    def commands(self, buttons: tuple[str, ...]) -> list[str]:
        """Return every command topic."""
        return [self.say, *(self.button(name) for name in buttons), *(self.setting(name) for name in SETTINGS)]


# --- what is asked for ----------------------------------------------------------------------------------------


class CommandError(Exception):
    """A message that cannot be executed; `id` if it contains one."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.id = name


def _as_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _as_switch(value: Any) -> Any:
    return SWITCHES.get(value.strip().lower(), value) if isinstance(value, str) else value


def _as_keyword(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def check_text(text: str) -> str:
    """Raise ValueError for a text without characters."""
    if not text.strip():
        raise ValueError("the text is empty")
    return text


Id = Annotated[str, Field(pattern=ID_PATTERN)]
Word = Annotated[str, Field(min_length=1, max_length=120)]
Several = Annotated[list[Word], Field(min_length=1, max_length=64), BeforeValidator(_as_several)]


class _Payload(BaseModel):
    """JSON as Home Assistant's templates make it: every state is a string there, and an empty one sets nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        optional = set(cls.model_fields) - {"text"}
        return {key: value for key, value in values.items() if not (value == "" and key in optional)}


class Say(_Payload):
    """Speak a text. None: the value of the settings."""

    text: Annotated[str, BeforeValidator(_as_text), AfterValidator(check_text)]
    id: Id | None = None
    voice: Word | None = None
    language: Word | None = None
    style: Word | None = None
    instruct: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    volume: Annotated[float, BeforeValidator(_as_number), Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    priority: Annotated[Literal["high", "normal", "low"], BeforeValidator(_as_keyword)] = "normal"
    targets: Several | None = None
    chime: Annotated[bool, BeforeValidator(_as_switch)] | None = None
    expires_s: Annotated[float, BeforeValidator(_as_number), Field(gt=0, le=86_400, allow_inf_nan=False)] | None = None


class Stop(_Payload):
    """Stop everything that is being spoken, one announcement, or some targets."""

    id: Id | None = None
    targets: Several | None = None


@dataclass(frozen=True, slots=True)
class ButtonPress:
    """A button without a payload: `clear`, `reload`, `unload`."""

    button: str


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A new value for a setting, as it was sent."""

    setting: str
    value: str


Command = Say | Stop | ButtonPress | SettingChange
_Model = TypeVar("_Model", bound=_Payload)


def parse(topics: Topics, topic: str, payload: bytes) -> Command:
    """Parse a message on a command topic. Raises CommandError."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise CommandError(f"the payload has {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")
    try:
        text = payload.decode("utf-8-sig").strip()  # some senders begin with a byte order mark
    except UnicodeDecodeError as error:
        raise CommandError(f"the payload is not valid UTF-8 (byte {error.start})") from None
    name = topic.removeprefix(f"{topics.base}/")
    match name:
        case "say/set":
            return _say(text)
        case "stop":
            return _model(Stop, text) if text.startswith("{") else Stop()
    if setting := re.fullmatch(r"(\w+)/set", name):
        return SettingChange(setting[1], text)
    return ButtonPress(name)


def _say(text: str) -> Say:
    if not text:
        raise CommandError("the text is empty")
    if text.startswith("{"):
        return _model(Say, text)
    return Say(text=text)


def _model(kind: type[_Model], text: str) -> _Model:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = [_explain(kind, dict(each)) for each in error.errors()[:MAX_PROBLEMS]]
        raise CommandError("; ".join(problems), _id_in(text)) from None


def _explain(kind: type[_Payload], problem: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"])[:60]
    if where == "speed":
        return "speed: no engine of this daemon can change it"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown; known are {', '.join(kind.model_fields)}"
    reason = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {reason[:1].lower()}{reason[1:]}" if where else reason


def _id_in(text: str) -> str | None:
    """Return the id of an invalid message, so that its sender recognises the answer."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) and re.fullmatch(ID_PATTERN, name) else None
