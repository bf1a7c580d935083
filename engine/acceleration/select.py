"""The fastest way that a GPU can run a model: chosen, checked against the plain one, captured and measured at start."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.talker import BatchRows
from ..paged.runner import PagedRunner
from ..runtime.codec_step import StreamingCodec
from ..runtime.cuda_graphs import CodecGraphs, FrameGraphs, Graph, PromptGraphs
from ..runtime.decode_step import DecodeStep, EagerDecodeStep
from ..runtime.model_runner import PIECE_SHAPES, Runner
from ..runtime.slot_state import bucket
from .compiled import CompiledDecodeStep
from .flash import use_flash
from .predictor_graph import capture_draws

if TYPE_CHECKING:
    from ..kernels.codec import FusedCodec
    from .fused import FusedDecodeStep

FRAME_S = 0.08
BUSY_SHARE = 0.8
"""Of a frame's time the jobs together may take so much, or one slow moment would be heard."""
LEAST_COSINE = 0.995
LEAST_CODEC_DB = 32.0
SHORTEST_READ = 256
"""Attention's shortest graph reads so many positions, each further one twice as many."""
TRIALS = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccelerationOptions:
    """`kernels`: auto, fused, compiled, plain or, over blocks, flash; `graphs` False leaves CUDA graphs out.

    `half_codec`: the fused codec, which computes in float16 (50 dB from float32), in the place of the plain one; it
    comes with the fused kernels, and with `codec_alone` beside others too. `inductor_mode` is for compiled ones.
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
    """Make a runner that nobody uses yet as fast as its device allows, and measure it."""
    if runner.device.type != "cuda":
        return AccelerationResult("plain", runner.slots, {})
    torch.cuda.set_device(runner.device)
    kernels = _choose(runner, wanted)
    if wanted.graphs:
        capture(runner)
    elif wanted.predictor_graph and isinstance(runner.frame, EagerDecodeStep):
        capture_draws(runner.frame, runner.model, runner.state, batch_sizes(runner.slots))
    step_s = measure(runner)
    return AccelerationResult(kernels, capacity(step_s, runner.slots), step_s)


def capacity(step_s: Mapping[int, float], slots: int) -> int:
    """How many of `slots` jobs can be spoken at once without falling behind: at least one, be it too slow."""
    able = [jobs for jobs in range(1, slots + 1) if step_s[bucket(jobs)] <= BUSY_SHARE * FRAME_S]
    return max(able, default=1)


# --- choosing -------------------------------------------------------------------------------------------------------


def _choose(runner: Runner, wanted: AccelerationOptions) -> str:
    """Put the fastest kernels that work into the runner."""
    if wanted.kernels in ("auto", "fused"):
        reason = _use_fused(runner, wanted.half_codec)
        if reason is None:
            return "fused"
        log.warning("no fused kernels, speech is made more slowly: %s", reason)
    if wanted.codec_alone and (reason := _use_fused_codec(runner)):
        log.warning("no fused codec, sound is made more slowly: %s", reason)
    if wanted.kernels in ("auto", "flash") and isinstance(runner, PagedRunner):
        reason = _tried(partial(use_flash, runner))
        if reason is None:
            return "flash"
        log.warning("no flash-attn: %s", reason)
    if wanted.kernels == "compiled":
        runner.frame = CompiledDecodeStep(runner.model, runner.state, wanted.inductor_mode)
        return "compiled"
    return "plain"


def _use_fused(runner: Runner, half_codec: bool) -> str | None:
    """Install the fused kernels; or say why not."""
    if reason := _no_triton(runner):
        return reason
    if runner.model.talker.head.weight.dtype == torch.float32:
        return "they are for 16-bit weights"
    if not runner.model.talker.text.folded:
        return "the text table is not projected"
    return _tried(partial(_install_checked, runner, half_codec))


def _use_fused_codec(runner: Runner) -> str | None:
    """Install the fused codec alone; or say why not."""
    return _no_triton(runner) or _tried(partial(_install_codec_alone, runner))


def _no_triton(runner: Runner) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.cuda.get_device_capability(runner.device) < (8, 0):
        return "the GPU is older than Ampere (RTX 30)"
    return None


def _tried(install: Callable[[], str | None]) -> str | None:
    """What `install` gives, or why it failed."""
    try:
        return install()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler we do not control raises: plain torch still speaks
        log.debug("the kernels failed", exc_info=True)
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"


def _install_checked(runner: Runner, half_codec: bool) -> str | None:
    from .fused import FusedDecodeStep

    frame = FusedDecodeStep(runner.model, runner.state)
    codec = _fused_codec(runner) if half_codec else None
    _compile(chain(_frame_steps(runner, frame), _codec_steps(runner, codec) if codec else ()))
    if (cosine := _frame_cosine(runner, frame)) < LEAST_COSINE:
        return f"their self-check failed (cosine {cosine:.4f})"
    if codec and (reason := _install_codec(runner, codec)):
        return reason
    runner.frame = frame
    return None


def _install_codec_alone(runner: Runner) -> str | None:
    codec = _fused_codec(runner)
    _compile(_codec_steps(runner, codec))
    return _install_codec(runner, codec)


def _compile(steps: Iterable[_CapturedCall]) -> None:
    """All kernels of the steps, so that no later launch has to wait for a compiler."""
    from ..kernels.precompile import compile_ahead

    compile_ahead(steps)
    torch.cuda.empty_cache()  # what the steps took for results that nobody made


def _fused_codec(runner: Runner) -> FusedCodec:
    from ..kernels.codec import FusedCodec

    return FusedCodec(runner.model.decoder, runner.slots, torch.float16, runner.device)


def _install_codec(runner: Runner, codec: FusedCodec) -> str | None:
    if (decibels := _codec_decibels(runner, codec)) < LEAST_CODEC_DB:
        return f"their self-check failed (codec {decibels:.1f} dB)"
    runner.codec = codec
    return None


def _frame_cosine(runner: Runner, fused: FusedDecodeStep) -> float:
    """The worst likeness of the two ways' scores, on the spare slot."""
    model, state = runner.model, runner.state
    slots = torch.full((1,), runner.slots, device=runner.device)
    noise = torch.Generator(runner.device).manual_seed(0)
    state.frame[runner.slots] = torch.randn(state.frame.shape[1], generator=noise, device=runner.device)
    text = torch.zeros(1, runner.model.talker.config.transformer.hidden_size, device=runner.device).to(state.frame)
    batch = fused.batch(slots, text, slots < runner.slots)
    likenesses = []
    for position in range(3):  # so that there is a past to attend to
        state.next[runner.slots] = position
        x, _ = fused.talker(batch)  # of one row, to which nothing is still to be added
        ours = model.talker.norm(x)
        rows = BatchRows(slots, state.next[slots], min(SHORTEST_READ, state.cache.max_positions))
        hidden, _ = model.talker.step(state.frame[slots] + text, state.cache, rows)
        likenesses.append(F.cosine_similarity(ours.float(), hidden.float()).min())
    code0 = torch.zeros(1, dtype=torch.int64, device=runner.device)
    theirs = model.code_predictor.first(hidden, code0, state.predictor)
    likenesses.append(F.cosine_similarity(fused.first_scores(hidden, code0).float(), theirs.float()).min())
    state.next[runner.slots] = 0
    return torch.stack(likenesses).min().nan_to_num(0).item()


def _codec_decibels(runner: Runner, codec: FusedCodec) -> float:
    """Signal to noise of the fused codec against the plain one, over some frames in the spare slot."""
    spare = torch.full((1,), runner.slots, device=runner.device)
    noise = torch.Generator(runner.device).manual_seed(0)
    codes = torch.randint(0, 2048, (16, 16), generator=noise, device=runner.device)
    ring = codes.expand(runner.slots + 1, 16, 16).contiguous()
    start = torch.zeros_like(spare)
    steps = [codec.step(ring, start + 8 * n, spare, 8) for n in range(2)]
    codec.reset(runner.slots)
    exact = runner.model.decoder.decode(codes.T[None]).float()
    error = (torch.cat(steps, dim=1) - exact).square().mean()
    return (10 * torch.log10(exact.square().mean() / error)).nan_to_num(0).item()


# --- graphs ---------------------------------------------------------------------------------------------------------


def capture(runner: Runner) -> None:
    """A graph for every batch size with every length and chunk that may come, and for a prompt's pieces."""
    runner.frame_graphs, runner.codec_graphs = FrameGraphs(runner.device), CodecGraphs(runner.device)
    runner.prompt_graphs = PromptGraphs(runner.device)
    for step in _frame_steps(runner, runner.frame):
        runner.frame_graphs.capture(step.key, step.inputs, step.run)
    for step in _codec_steps(runner, runner.codec):
        runner.codec_graphs.capture(step.key, step.inputs, step.run)
    for step in _prompt_steps(runner):
        runner.prompt_graphs.capture(step.key, step.inputs, step.run)


@dataclass(frozen=True, slots=True)
class _CapturedCall:
    """A call that may come again and again: its size and its length or frames, and inputs for the spare slot."""

    key: tuple[int, int]
    inputs: tuple[Tensor, ...]
    run: Callable[..., Tensor]

    def __call__(self) -> Tensor:
        return self.run(*self.inputs)


def _frame_steps(runner: Runner, frame: DecodeStep) -> Iterator[_CapturedCall]:
    for rows in batch_sizes(runner.slots):
        for length in _lengths(runner, frame):
            slots = torch.full((rows,), runner.slots, device=runner.device)
            yield _CapturedCall(
                (rows, length), (slots, _text(runner, rows)), partial(_frame_step, runner, frame, length)
            )


def _codec_steps(runner: Runner, codec: StreamingCodec[Any]) -> Iterator[_CapturedCall]:
    for rows in batch_sizes(runner.slots):
        for frames in (size for size in codec.sizes if size <= 8):
            slots = torch.full((rows,), runner.slots, device=runner.device)
            yield _CapturedCall(
                (rows, frames), (torch.zeros_like(slots), slots), partial(_codec_step, runner, codec, frames)
            )


def _prompt_steps(runner: Runner) -> Iterator[_CapturedCall]:
    weight = runner.model.talker.head.weight
    for size, length in PIECE_SHAPES:
        if length <= runner.state.cache.max_positions:
            slots = torch.full((1,), runner.slots, device=runner.device)
            inputs = weight.new_zeros(1, size, weight.shape[1])
            yield _CapturedCall(
                (size, length), (inputs, slots, torch.zeros_like(slots)), partial(runner.read_piece, length)
            )


def _frame_step(runner: Runner, frame: DecodeStep, length: int, slots: Tensor, text: Tensor) -> Tensor:
    return frame(slots, text, slots < runner.slots, length)


def _codec_step(runner: Runner, codec: StreamingCodec[Any], frames: int, starts: Tensor, slots: Tensor) -> Tensor:
    return codec.step(runner.state.codes, starts, slots, frames)


def _text(runner: Runner, rows: int) -> Tensor:
    """Text as `advance` gives it: ids, or rows of a table in host memory."""
    table = runner.model.talker.text.table
    if table.device == runner.device:
        return torch.zeros(rows, dtype=torch.int64, device=runner.device)
    return torch.zeros(rows, table.shape[1], dtype=table.dtype, device=runner.device)


def _lengths(runner: Runner, frame: DecodeStep) -> list[int]:
    """How many positions graphs shall read, the shortest first; 0 where a frame does not care."""
    if not frame.reads_length:
        return [0]
    longest = runner.state.cache.max_positions
    growth = 4 if isinstance(frame, CompiledDecodeStep) else 2  # compiling takes minutes, capturing does not
    lengths = [min(SHORTEST_READ, longest)]
    while lengths[-1] < longest:
        lengths.append(min(growth * lengths[-1], longest))
    return lengths


def batch_sizes(slots: int) -> list[int]:
    """The buckets that so many slots can fill."""
    return [1 << power for power in range(bucket(slots).bit_length())]


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(runner: Runner) -> dict[int, float]:
    """Seconds of a frame for each batch size, its share of a chunk of codec work included."""
    return {rows: _frame_s(runner, rows) for rows in batch_sizes(runner.slots)}


def _frame_s(runner: Runner, rows: int) -> float:
    slots = torch.full((rows,), runner.slots, device=runner.device)
    text, start = _text(runner, rows), torch.zeros_like(slots)
    positions = min(SHORTEST_READ, runner.max_positions)
    frame = runner.frame_graphs.find(rows, positions) if runner.frame_graphs else None
    codec = runner.codec_graphs.find(rows, 4) if runner.codec_graphs else None
    make: Graph | partial[Tensor] = frame or partial(_frame_step, runner, runner.frame, positions)
    sound: Graph | partial[Tensor] = codec or partial(_codec_step, runner, runner.codec, 4)
    return _seconds(runner, make, slots, text) + _seconds(runner, sound, start, slots) / 4


def _seconds(runner: Runner, call: Graph | partial[Tensor], *inputs: Tensor) -> float:
    times = []
    for _ in range(TRIALS):
        torch.cuda.synchronize(runner.device)
        began_s = time.perf_counter()
        call(*inputs)
        torch.cuda.synchronize(runner.device)
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)
