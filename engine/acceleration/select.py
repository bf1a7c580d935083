"""Selects the fastest way to run a model on a GPU: verified against eager torch, captured and measured at load."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch

from ..checkpoint.gpu_probe import AMPERE
from ..model.config import FRAME_S
from ..paged.runner import PagedRunner
from ..runtime.decode_step import EagerDecodeStep
from ..runtime.model_runner import Runner
from ..runtime.slot_state import bucket
from ..runtime.strategies import Strategies
from .capture import CapturedCall, batch_sizes, capture, codec_steps, frame_steps
from .compiled import CompiledDecodeStep
from .flash import flash_strategies
from .measure import measure
from .predictor_graph import capture_draw
from .verify import UnusableKernels, check_codec, check_frame

if TYPE_CHECKING:
    from ..kernels.codec import FusedCodec

BUSY_SHARE = 0.8
"""Share of a frame's duration that all jobs together may use: the rest absorbs jitter, which would be audible."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccelerationOptions:
    """`kernels`: auto, fused, compiled, plain or, with a paged runner, flash; `graphs` False disables CUDA graphs.

    `half_codec`: use the fused codec, which computes in float16 (50 dB from float32), instead of the eager one. It
    accompanies the fused kernels and, with `codec_alone`, others too. `inductor_mode` applies to compiled kernels.
    `predictor_graph`: without `graphs`, capture only the code predictor.
    """

    kernels: str = "auto"
    graphs: bool = True
    half_codec: bool = True
    codec_alone: bool = False
    inductor_mode: str = "default"
    predictor_graph: bool = False


@dataclass(frozen=True, slots=True)
class AccelerationResult:
    """The selected kernels, and how many concurrent jobs the GPU can run in real time."""

    kernels: str
    capacity: int
    step_s: Mapping[int, float]  # by batch size, codec included


@torch.inference_mode()
def accelerate(runner: Runner, wanted: AccelerationOptions) -> AccelerationResult:
    """Make an unused runner as fast as its device allows, and measure it."""
    if runner.device.type != "cuda":
        return AccelerationResult("plain", runner.slots, {})
    torch.cuda.set_device(runner.device)
    kernels, chosen = choose(runner, wanted)
    runner.strategies = chosen  # frees the eager codec's state before graphs allocate memory
    if wanted.graphs:
        chosen = capture(runner, chosen)
    elif wanted.predictor_graph and isinstance(chosen.step, EagerDecodeStep):
        draw = capture_draw(chosen.step, runner.model, runner.state, batch_sizes(runner.slots))
        chosen = replace(chosen, step=chosen.step.with_draw(draw))
    runner.strategies = chosen
    step_s = measure(runner)
    return AccelerationResult(kernels, capacity(step_s, runner.slots), step_s)


def capacity(step_s: Mapping[int, float], slots: int) -> int:
    """Return how many of `slots` jobs can run in real time at once, but at least 1 even if that is too slow."""
    able = [jobs for jobs in range(1, slots + 1) if step_s[bucket(jobs)] <= BUSY_SHARE * FRAME_S]
    return max(able, default=1)


def choose(runner: Runner, wanted: AccelerationOptions) -> tuple[str, Strategies]:
    """Return the fastest working kernels: their name, and strategies without graphs."""
    chosen = runner.strategies
    if wanted.kernels in ("auto", "fused"):
        fused = _usable(partial(_fused, runner, wanted.half_codec), "fused kernels unavailable, generation is slower")
        if fused:
            return "fused", fused
    if wanted.codec_alone:
        chosen = _usable(partial(_fused_codec, runner), "fused codec unavailable, decoding is slower") or chosen
    if wanted.kernels in ("auto", "flash") and isinstance(runner, PagedRunner):
        flash = _usable(partial(flash_strategies, runner, chosen), "flash-attn unavailable")
        if flash:
            return "flash", flash
    if wanted.kernels == "compiled":
        step = CompiledDecodeStep(runner.model, runner.state, wanted.inductor_mode)
        return "compiled", replace(chosen, step=step)
    return "plain", chosen


def _usable(build: Callable[[], Strategies], consequence: str) -> Strategies | None:
    """Return the result of `build`; on failure, log the reason and return None, since eager torch still works."""
    try:
        return build()
    except torch.cuda.OutOfMemoryError:
        raise
    except UnusableKernels as error:
        reason = str(error)
    except Exception as error:  # compilers raise arbitrary exceptions
        log.debug("kernels failed", exc_info=True)
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"
    log.warning("%s: %s", consequence, reason)
    return None


def _fused(runner: Runner, half_codec: bool) -> Strategies:
    """Build and verify the fused decode step and, with `half_codec`, the fused codec. Raise UnusableKernels."""
    _require_triton(runner)
    if runner.model.talker.head.weight.dtype == torch.float32:
        raise UnusableKernels("they require 16-bit weights")
    if not runner.model.talker.text.folded:
        raise UnusableKernels("the text embedding table has not been projected")
    from .fused import FusedDecodeStep

    step = FusedDecodeStep(runner.model, runner.state)
    codec = _build_codec(runner) if half_codec else None
    _compile(chain(frame_steps(runner, step), codec_steps(runner, codec) if codec else ()))
    check_frame(runner, step)
    if codec is None:
        return replace(runner.strategies, step=step)
    check_codec(runner, codec)
    return replace(runner.strategies, step=step, codec=codec)


def _fused_codec(runner: Runner) -> Strategies:
    """Build and verify the fused codec alone. Raise UnusableKernels on failure."""
    _require_triton(runner)
    codec = _build_codec(runner)
    _compile(codec_steps(runner, codec))
    check_codec(runner, codec)
    return replace(runner.strategies, codec=codec)


def _require_triton(runner: Runner) -> None:
    if importlib.util.find_spec("triton") is None:
        raise UnusableKernels("triton is not installed")
    if torch.cuda.get_device_capability(runner.device) < AMPERE:
        raise UnusableKernels("they require an Ampere GPU (RTX 30) or newer")


def _build_codec(runner: Runner) -> FusedCodec:
    from ..kernels.codec import FusedCodec

    return FusedCodec(runner.model.decoder, runner.slots, torch.float16, runner.device)


def _compile(steps: Iterable[CapturedCall]) -> None:
    """Compile all kernels of the steps in advance, so that later launches do not wait for a compiler."""
    from ..kernels.precompile import compile_ahead

    compile_ahead(steps)
    torch.cuda.empty_cache()  # release the memory of the steps' results
