"""What a check has found, and how all of it is shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum

from rich.console import Console
from rich.text import Text

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


class Level(StrEnum):
    """`WARNING`: it speaks, but not as well or as surely as it could. `ERROR`: it does not speak as configured."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `remedy` is what to do about it."""

    check: str
    level: Level
    text: str
    remedy: str | None = None


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, Level.ERROR, text, remedy)


def exit_status(findings: Iterable[Finding]) -> int:
    """0: all is well, 1: there are warnings, 69: there are errors."""
    levels = {finding.level for finding in findings}
    if Level.ERROR in levels:
        return os.EX_UNAVAILABLE
    return 1 if Level.WARNING in levels else 0


def show(findings: Iterator[Finding], console: Console) -> list[Finding]:
    """Print each as soon as it is known."""
    shown = []
    for finding in findings:
        sign, colour = _SIGNS[finding.level]
        line = Text.assemble((sign, colour), " ", (f"{finding.check}: ", "bold"), finding.text)
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"  → {finding.remedy}"), soft_wrap=True)
        shown.append(finding)
    return shown


def as_json(findings: Iterable[Finding]) -> str:
    """All of them as one object."""
    listed = list(findings)
    return json.dumps(
        {"exit_status": exit_status(listed), "findings": [asdict(finding) for finding in listed]}, ensure_ascii=False
    )
