"""Lines of a benchmark: whatever a figure depends on stands in the same line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .metrics import Figure


@dataclass(frozen=True, slots=True)
class Setting:
    """What was run, on what. `batch` and `frames` may be a word where they are no single number."""

    command: str
    gpu: str
    torch: str
    model: str
    batch: int | str
    frames: int | str


def command_line(module: str, arguments: Sequence[str]) -> str:
    """How to run this again."""
    return shlex.join(("python", "-m", module, *arguments))


def text_line(setting: Setting, figures: Mapping[str, Figure]) -> str:
    """One line for people; a figure that does not exist is left out."""
    head = f"{setting.command} | {setting.gpu} | torch {setting.torch} | {setting.model}"
    shape = f"batch {setting.batch} | {setting.frames} frames"
    known = (f"{name} {shown(value)}" for name, value in figures.items() if value is not None)
    return f"{head} | {shape} | {', '.join(known)}"


def json_line(setting: Setting, figures: Mapping[str, Figure]) -> str:
    """The same for programs."""
    return json.dumps({**asdict(setting), **figures}, ensure_ascii=False)


def shown(value: Figure) -> str:
    """A number with about four digits, never with an exponent."""
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    return f"{value:.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3}f}"
