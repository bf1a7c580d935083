"""Handles signals that arrive while a command is still importing its modules, before its own handlers exist."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_hung_up = False


def install() -> None:
    """Make Ctrl-C end the process quietly with status 130, and keep SIGHUP from ending a daemon that is starting."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job of a shell ignores it
        signal.signal(signal.SIGINT, _interrupted)
    command = sys.argv[1] if len(sys.argv) > 1 else "-"
    if command == "run" or command.startswith("-"):  # other commands end with their terminal
        signal.signal(signal.SIGHUP, _remember)


def imported() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def hung_up() -> bool:
    """Return whether SIGHUP arrived before the daemon had a handler for it."""
    return _hung_up


def _interrupted(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


def _remember(_number: int, _frame: FrameType | None) -> None:
    global _hung_up
    _hung_up = True
