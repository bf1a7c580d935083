"""Seconds of a first and of a second start of the fused engine, and what is compiled ahead of the first launch.

    python -m tests.gpu.time_start [--size 1b7] [--slots 8]
A start's last two figures, kernels compiled and libraries built after the pass, are to be 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

STARTS = 2


def starts(directory: Path, slots: int) -> list[dict[str, Any]]:
    """What each start of the checkpoint did, the first with an empty cache; each in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "tests.gpu.time_start", "--checkpoint", str(directory), "--slots", str(slots)]
        environment = {**os.environ, "TRITON_CACHE_DIR": cache}
        return [
            json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
            for _ in range(STARTS)
        ]


def start(directory: Path, slots: int) -> dict[str, Any]:
    """Load and accelerate once."""
    from triton import knobs

    from engine.acceleration.select import AccelerationOptions, accelerate
    from engine.checkpoint.load import LoadOptions
    from engine.checkpoint.loaded import load_checkpoint
    from engine.kernels import precompile
    from engine.runtime.model_runner import Runner

    misses: list[bool] = []
    cache, told = Path(os.environ["TRITON_CACHE_DIR"]), {}
    compile_ahead = precompile.compile_ahead

    def libraries() -> int:
        return len(list(cache.glob("*/__triton_launcher*")))

    def watched(steps: Iterable[Callable[[], object]]) -> None:
        began_s = time.perf_counter()
        compile_ahead(steps)
        told.update(
            ahead_s=time.perf_counter() - began_s,
            kernels=len(misses),
            compiled=sum(misses),
            compiled_later=-sum(misses),
            libraries_later=-libraries(),
        )

    runner = Runner(load_checkpoint(directory, LoadOptions(fold_text=True)).model, slots, 512)
    with (
        patch.object(knobs.compilation, "listener", lambda *, cache_hit, **_: misses.append(not cache_hit)),
        patch.object(precompile, "compile_ahead", watched),
    ):
        began_s = time.perf_counter()
        pace = accelerate(runner, AccelerationOptions("fused"))
    assert pace.kernels == "fused", pace
    told["accelerate_s"] = time.perf_counter() - began_s
    told["compiled_later"] += sum(misses)
    told["libraries_later"] += libraries()
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="1b7")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--checkpoint", type=Path, help="start once and print JSON")
    options = parser.parse_args()
    if options.checkpoint:
        print(json.dumps(start(options.checkpoint, options.slots)))
        return
    from engine.testing.tiny_checkpoint import build_full

    with tempfile.TemporaryDirectory() as name:
        directory = build_full(Path(name), options.size, "custom_voice")
        for told in starts(directory, options.slots):
            print(", ".join(f"{key} {value:.4g}" for key, value in told.items()))


if __name__ == "__main__":
    main()
