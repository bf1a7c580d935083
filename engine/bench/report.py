"""The options that benchmarks share, and their output: one line with each figure and all that it depends on."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .metrics import Figure

KERNELS = ("auto", "fused", "compiled", "plain")


@dataclass(frozen=True, slots=True)
class Setting:
    """What was run, on what. `batch` and `frames` may be words instead of one number."""

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


def engine_parser(description: str | None, directory: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the engine's options; `directory`: whether a checkpoint is required."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR", nargs=None if directory else "?", help="a checkpoint")
    parser.add_argument("--kernels", choices=KERNELS, default="auto")
    parser.add_argument("--device", default="auto", help="cuda:N or cpu")
    parser.add_argument("--dtype", default="auto", help="bfloat16, float16 or float32")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    return parser


def peer_lines(command: str, as_json: bool) -> Iterator[str]:
    """Run another engine's own benchmark and yield its lines, each with the command before it; its stderr is ours.

    Raises CalledProcessError when it fails.
    """
    finished = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True, check=True)
    for line in filter(None, map(str.strip, finished.stdout.splitlines())):
        yield json.dumps({"peer": command, "line": _parsed(line)}) if as_json else f"peer {command} | {line}"


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return line
