"""The fastest way that a GPU can run a model: chosen, checked against eager torch, captured and measured at load."""

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
"""Of a frame's time all jobs together may take this share: one slow moment would be audible otherwise."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccelerationOptions:
    """`kernels`: auto, fused, compiled, plain or, over blocks, flash; `graphs` False leaves CUDA graphs out.

    `half_codec`: the fused codec, which computes in float16 (50 dB from float32), in the place of the plain one; it
    is part of the fused kernels, and with `codec_alone` beside others too. `inductor_mode` is for compiled ones.
    `predictor_graph`: where there are no `graphs`, the code predictor as one.
    """

    kernels: str = "auto"
    graphs: bool = True
    half_codec: bool = True
    codec_alone: bool = False
    inductor_mode: str = "default"
    predictor_graph: bool = False


@dataclass(frozen=True, slots=True)
class AccelerationResult:
    """What was chosen, and how many jobs at once the GPU speaks in real time."""

    kernels: str
    capacity: int
    step_s: Mapping[int, float]  # of each batch size, codec included


@torch.inference_mode()
def accelerate(runner: Runner, wanted: AccelerationOptions) -> AccelerationResult:
    """Make a runner that is not used yet as fast as its device allows, and measure it."""
    if runner.device.type != "cuda":
        return AccelerationResult("plain", runner.slots, {})
    torch.cuda.set_device(runner.device)
    kernels, chosen = choose(runner, wanted)
    runner.strategies = chosen  # frees the eager codec's state before graphs take memory
    if wanted.graphs:
        chosen = capture(runner, chosen)
    elif wanted.predictor_graph and isinstance(chosen.step, EagerDecodeStep):
        draw = capture_draw(chosen.step, runner.model, runner.state, batch_sizes(runner.slots))
        chosen = replace(chosen, step=chosen.step.with_draw(draw))
    runner.strategies = chosen
    step_s = measure(runner)
    return AccelerationResult(kernels, capacity(step_s, runner.slots), step_s)


def capacity(step_s: Mapping[int, float], slots: int) -> int:
    """How many of `slots` jobs can be spoken at once without falling behind: at least one, be it too slow."""
    able = [jobs for jobs in range(1, slots + 1) if step_s[bucket(jobs)] <= BUSY_SHARE * FRAME_S]
    return max(able, default=1)


def choose(runner: Runner, wanted: AccelerationOptions) -> tuple[str, Strategies]:
    """Return the fastest kernels that work, by name and as strategies without graphs."""
    chosen = runner.strategies
    if wanted.kernels in ("auto", "fused"):
        fused = _usable(partial(_fused, runner, wanted.half_codec), "no fused kernels, speech is made more slowly")
        if fused:
            return "fused", fused
    if wanted.codec_alone:
        chosen = _usable(partial(_fused_codec, runner), "no fused codec, sound is made more slowly") or chosen
    if wanted.kernels in ("auto", "flash") and isinstance(runner, PagedRunner):
        flash = _usable(partial(flash_strategies, runner, chosen), "no flash-attn")
        if flash:
            return "flash", flash
    if wanted.kernels == "compiled":
        step = CompiledDecodeStep(runner.model, runner.state, wanted.inductor_mode)
        return "compiled", replace(chosen, step=step)
    return "plain", chosen


def _usable(build: Callable[[], Strategies], otherwise: str) -> Strategies | None:
    """Return what `build` returns; where it fails, log why and return None: eager torch can still speak."""
    try:
        return build()
    except torch.cuda.OutOfMemoryError:
        raise
    except UnusableKernels as error:
        reason = str(error)
    except Exception as error:  # compilers raise anything
        log.debug("the kernels failed", exc_info=True)
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"
    log.warning("%s: %s", otherwise, reason)
    return None


def _fused(runner: Runner, half_codec: bool) -> Strategies:
    """Build and check the fused decode step and, in float16, the fused codec. Raises UnusableKernels."""
    _require_triton(runner)
    if runner.model.talker.head.weight.dtype == torch.float32:
        raise UnusableKernels("they are for 16-bit weights")
    if not runner.model.talker.text.folded:
        raise UnusableKernels("the text table is not projected")
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
    """Build and check the fused codec alone. Raises UnusableKernels."""
    _require_triton(runner)
    codec = _build_codec(runner)
    _compile(codec_steps(runner, codec))
    check_codec(runner, codec)
    return replace(runner.strategies, codec=codec)


def _require_triton(runner: Runner) -> None:
    if importlib.util.find_spec("triton") is None:
        raise UnusableKernels("triton is not installed")
    if torch.cuda.get_device_capability(runner.device) < AMPERE:
        raise UnusableKernels("the GPU is older than Ampere (RTX 30)")


def _build_codec(runner: Runner) -> FusedCodec:
    from ..kernels.codec import FusedCodec

    return FusedCodec(runner.model.decoder, runner.slots, torch.float16, runner.device)


def _compile(steps: Iterable[CapturedCall]) -> None:
    """Compile all kernels of the steps, so that no later launch waits for a compiler."""
    from ..kernels.precompile import compile_ahead

    compile_ahead(steps)
    torch.cuda.empty_cache()  # the steps allocated their results
