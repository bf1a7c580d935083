"""Where compiled kernels are kept between starts."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path


def keep_compiled(environment: MutableMapping[str, str]) -> None:
    """Let Triton and Inductor keep their results where a reboot does not delete them; before torch is imported.

    What the user has set already stays. systemd names a service's own folder in CACHE_DIRECTORY.
    """
    home = environment.get("CACHE_DIRECTORY", "").partition(":")[0]
    folder = Path(home) if home else Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qwentts"
    environment.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
    environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
