"""The natural voice with one thing wrong, to be named like the classes of `tests.support.fakes`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from engine.worker.backends.qwen3 import Qwen3Backend


class SlowQwen3(Qwen3Backend):
    """Loads once the file that TEST_GATE names exists."""

    def load(self) -> None:
        while not Path(os.environ["TEST_GATE"]).exists():
            time.sleep(0.01)
        super().load()


class ShortOfMemory(Qwen3Backend):
    """Runs out of memory in the third frame that it is asked for, once."""

    def load(self) -> None:
        import torch  # not in the daemon

        super().load()
        engine = self._ready().engine
        real, left = engine.step, [2]

        def step() -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return real()

        engine.step = step  # type: ignore[method-assign]
