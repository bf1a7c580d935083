"""Commands that may hang, as whatever speaks to a broken driver may: run for a limited time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

KILLED_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """`fault` is the reason, in words, why `output` is of no use."""

    output: str
    fault: str | None = None


def run(command: Sequence[str], timeout_s: float) -> CommandResult:
    """What the command prints. One that the kernel does not let go of is left behind."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return CommandResult("", f"{command[0]}: {error.strerror or error}")
    try:
        output, complaint = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=KILLED_WITHIN_S)
        return CommandResult("", f"no answer within {timeout_s:g} s")
    return CommandResult(output, _fault(process.returncode, complaint))


def _fault(status: int, complaint: str) -> str | None:
    if status == 0:
        return None
    how = f"it died of {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    last = complaint.strip().splitlines()[-1:]
    return f"{how}{': ' + last[0][:200] if last else ''}"
