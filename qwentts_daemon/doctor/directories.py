"""Directories: whether they are there, may be used, have room, and are closed to others."""

from __future__ import annotations

import getpass
import os
import shutil
import stat
from pathlib import Path

from .findings import Finding, error, ok, warning

LOW_BYTES = 1 << 30
MODEL_BYTES = 5 << 30


def check_directory(name: str, path: Path, key: str, room_bytes: int = LOW_BYTES) -> list[Finding]:
    """A directory that is written to, or will be made: rights, and room for so much; `key` moves it elsewhere."""
    place = nearest(path)
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        remedy = f"make the user who runs the daemon its owner (chown), or choose another ({key})"
        return [error(name, f"{place} may not be written to by {_user()}", remedy)]
    free = shutil.disk_usage(place).free
    if free < room_bytes:
        text = f"{place} has {free / 1e9:.1f} GB left, {room_bytes / 1e9:.1f} GB are wanted"
        return [warning(name, text, f"make room, or choose a larger disk ({key})")]
    state = "" if path.exists() else ", not there yet"
    return [ok(name, f"{path}{state}, {free / 1e9:.0f} GB free, writable for {_user()}")]


def check_privacy(name: str, path: Path) -> list[Finding]:
    """Recordings of voices are personal data."""
    if not path.exists() or not stat.S_IMODE(path.stat().st_mode) & 0o007:
        return []
    return [warning(name, f"{path} is open to every user of this machine", f"chmod -R o= {path}")]


def check_execution(name: str, path: Path, key: str) -> list[Finding]:
    """Compiled kernels are loaded as libraries."""
    if os.statvfs(nearest(path)).f_flag & os.ST_NOEXEC:
        return [error(name, f"{path} is on a file system mounted noexec", f"choose another place ({key})")]
    return []


def nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    path = path.absolute()
    return path if path.exists() else nearest(path.parent)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        return f"user {os.geteuid()}"
