"""Persistent cache directories for compiled kernels."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path


def keep_compiled(environment: MutableMapping[str, str]) -> None:
    """Make Triton and Inductor cache their results where they survive a reboot; call this before importing torch.

    Variables that the user has set are kept. systemd sets CACHE_DIRECTORY to the service's own cache directory.
    """
    home = environment.get("CACHE_DIRECTORY", "").partition(":")[0]
    folder = Path(home) if home else Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qwentts"
    environment.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
