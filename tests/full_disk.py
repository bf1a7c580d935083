"""A machine without a byte of room on its disks, to be named as `full_disk:Qwen3OnFullDisk` to `tests.daemon_with`."""

from __future__ import annotations

import resource

from engine.worker.backends.qwen3 import Qwen3Backend


class Qwen3OnFullDisk(Qwen3Backend):
    """Loads and works where no file may grow."""

    def load(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        super().load()
