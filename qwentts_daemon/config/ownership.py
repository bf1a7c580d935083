"""Assigns files that root creates for the service to the service's user."""

from __future__ import annotations

import os
from pathlib import Path

SERVICE_STATE = Path("/var/lib/qwentts")
"""StateDirectory= of systemd/qwentts.service."""


def acts_for_the_service() -> bool:
    """Whether this command is run by root on a machine with the service, and so acts for the service."""
    return os.geteuid() == 0 and SERVICE_STATE.is_dir()


def surroundings(folder: Path) -> Path:
    """Return the nearest existing directory."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def hand_over(made: Path, around: Path) -> None:
    """Change the owner of what root created inside `around` to the owner of `around`. Raises OSError."""
    if os.geteuid() != 0:
        return
    owner = around.stat()
    between = [parent for parent in made.parents if parent.is_relative_to(around) and parent != around]
    for path in (*between, made, *made.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
