"""Lists what a start on an H100 compiles, without one: Triton's compiler is real, its driver launches nothing.

    TRITON_CACHE_DIR=... python -m tests.engine.kernels.compiled_ahead
prints a JSON object of what was compiled, loaded and launched, ahead and by the steps themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton import knobs
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.driver import GPUDriver
from triton.runtime import JITFunction, driver

from engine.acceleration.capture import codec_steps, frame_steps
from engine.acceleration.fused import FusedDecodeStep
from engine.checkpoint.load import LoadOptions, load
from engine.kernels import attention, codec_conv, codec_frames, linear, precompile, sampling
from engine.kernels.codec import FusedCodec
from engine.kernels.launch import Launch, enqueue
from engine.kernels.precompile import compile_ahead
from engine.runtime.model_runner import Runner
from tests.engine.kernels.codec_fused import small_decoder
from tests.engine.support.tiny_models import tiny_directory

SLOTS = 4


class Seen:
    """What Triton did since the last look."""

    def __init__(self) -> None:
        self.compiled, self.loaded, self.launchers, self.launches = set(), set(), [], 0

    def note(self, *, metadata: dict[str, Any], cache_hit: bool, **_: object) -> None:
        (self.loaded if cache_hit else self.compiled).add(metadata["hash"])

    def look(self) -> dict[str, Any]:
        seen = {
            "compiled": sorted(self.compiled),
            "loaded": sorted(self.loaded),
            "launchers": list(self.launchers),
            "launches": self.launches,
        }
        self.__init__()
        return seen


class Driver(GPUDriver):
    """A driver whose kernels do nothing, by default for an H100."""

    def __init__(self, seen: Seen, capability: int = 90) -> None:
        class Launcher:
            def __init__(self, source: Any, metadata: object) -> None:
                seen.launchers.append(str(list(source.signature.values())))

            def __call__(self, *_: object) -> None:
                seen.launches += 1

        self.launcher_cls = Launcher
        self.utils = SimpleNamespace(
            load_binary=lambda *_: ("module", "function", 0, 0, 1024),
            get_device_properties=lambda _: {"max_shared_mem": 232448},
        )
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda _: 0
        self.get_device_capability = lambda _: divmod(capability, 10)
        self.get_current_target = lambda: GPUTarget("cuda", capability, 32)


Driver.__abstractmethods__ = frozenset()


@triton.jit
def _broken(x, step: tl.constexpr):
    tl.store(x, nowhere + step)  # noqa: F821


def forget() -> None:
    """Empty the process's own cache, so that all is asked for again."""
    for module in (attention, codec_conv, codec_frames, linear, sampling):
        for kernel in vars(module).values():
            if isinstance(kernel, JITFunction):
                kernel.device_caches.clear()


def warnings(*steps: Callable[[], object]) -> list[str]:
    """Return the warnings of `compile_ahead` for these steps."""
    with patch.object(precompile.log, "warning") as warning:
        compile_ahead(steps)
    return [call.args[0] % call.args[1:] for call in warning.call_args_list]


def broken_kernel() -> None:
    enqueue(_broken, (1,), torch.zeros(1), step=1)


def broken_step() -> None:
    raise ValueError("no such step")


@torch.inference_mode()
def main() -> None:
    seen = Seen()
    knobs.compilation.listener = seen.note
    driver.set_active(Driver(seen))
    options = LoadOptions(device="cpu", dtype=torch.bfloat16, fold_text=True)
    runner = Runner(load(tiny_directory("custom_voice"), options), SLOTS, 128)
    with patch.object(Launch, "on", lambda _: Launch(early=True)):
        frame = FusedDecodeStep(runner.model, runner.state)
    codec = FusedCodec(small_decoder(), SLOTS, torch.float16, "cpu")

    def steps() -> chain[Any]:
        return chain(frame_steps(runner, frame), codec_steps(runner, codec))

    def run() -> None:
        for step in steps():
            step()

    compile_ahead(steps())
    told = {"ahead": seen.look()}
    run()
    told["then"] = seen.look()
    forget()
    run()
    told["from disk"] = seen.look()
    forget()
    told["warnings"] = [warnings(broken_kernel, run), warnings(broken_kernel, broken_step)]
    told["despite trouble"] = seen.look()
    run()
    told["after trouble"] = seen.look()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
