"""An engine on a machine whose disks are full; `tests.support.daemon_with full_disk:Qwen3OnFullDisk` runs it."""

from __future__ import annotations

import resource

from engine.worker.backends.qwen3 import Qwen3Backend


class Qwen3OnFullDisk(Qwen3Backend):
    """Loads and works where no file may grow."""

    def load(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        super().load()
