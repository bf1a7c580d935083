"""Root makes voices for the service, which runs as a user of its own: they are to belong to that user."""

from __future__ import annotations

import os
from pathlib import Path

SERVICE_STATE = Path("/var/lib/qwentts")
"""StateDirectory= of systemd/qwentts.service."""


def acts_for_the_service() -> bool:
    """Whether a command of root is meant for the service of this machine."""
    return os.geteuid() == 0 and SERVICE_STATE.is_dir()


def surroundings(folder: Path) -> Path:
    """The nearest folder that is there already."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def hand_over(made: Path, around: Path) -> None:
    """What root has made inside `around` belongs to the owner of `around` from now on. Raises OSError."""
    if os.geteuid() != 0:
        return
    owner = around.stat()
    between = [parent for parent in made.parents if parent.is_relative_to(around) and parent != around]
    for path in (*between, made, *made.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
