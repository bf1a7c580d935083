"""Other engines' own commands, run in turn with ours so that both see the same GPU in the same minutes."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator


def peer_lines(command: str, as_json: bool) -> Iterator[str]:
    """Run a peer to its end and give its lines, each with the command before it; its errors go where ours go.

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
