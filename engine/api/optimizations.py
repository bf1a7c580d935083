"""What `enable_streaming_optimizations` takes: the seed's table, each option meaning on this engine what it says."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace

import torch

from ..acceleration.select import AccelerationOptions, accelerate
from ..checkpoint.memory_footprint import NumberBytes, footprint
from ..checkpoint.memory_plan import fit
from ..model.speech_model import SpeechModel
from ..prompt.languages import suggest
from ..prompt.validation import check_bool, check_number
from ..runtime.model_runner import Runner
from .inputs import FromPretrained
from .paged_engine import PagedOptions

LEAST_OVERHEAD = "reduce-overhead"
LONGEST_WINDOW = 1500
"""Frames: two minutes. The seed uses 80; the memory that a window takes grows with it."""
COMPILE_MODES = ("default", LEAST_OVERHEAD, "max-autotune", "max-autotune-no-cudagraphs")
_GRAPHED_MODES = (LEAST_OVERHEAD, "max-autotune")
_NUMBERS = ("decode_window_frames", "paged_gpu_memory_utilization")
_WORDS = ("compile_mode",)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizations:
    """The seed's names and defaults. Raises ValueError for what cannot be, and for what contradicts itself.

    use_compile: the codec in fused kernels (float16), and windows of `decode_window_frames` frames compiled (when a
    stream with `windowed_decode` wants the first of them; those of other lengths are decoded as before).
    compile_codebook_predictor: talker and code predictor compiled; by `compile_mode` reduce-overhead in our fused
    kernels, otherwise by torch.compile in that mode. use_cuda_graphs: whole frames, codec steps and those windows as
    graphs. use_codebook_cuda_graph: the code predictor as a graph of its own, for `generate_fast` and for frames that
    are none. capture_async_graph: those windows also where `async_decode` decodes. use_fast_codebook: this engine has
    no slower way. use_paged_engine and paged_…: the paged attention engine.
    """

    decode_window_frames: int = 80
    use_compile: bool = True
    use_cuda_graphs: bool = True
    compile_mode: str = LEAST_OVERHEAD
    use_fast_codebook: bool = False
    compile_codebook_predictor: bool = True
    use_codebook_cuda_graph: bool = False
    capture_async_graph: bool = False
    use_paged_engine: bool = False
    paged_gpu_memory_utilization: float = 0.3
    paged_enforce_eager: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name not in _NUMBERS + _WORDS:
                check_bool(field.name, getattr(self, field.name))
        if self.compile_mode not in COMPILE_MODES:
            raise ValueError(
                f"unknown compile_mode {self.compile_mode!r}{suggest(str(self.compile_mode), COMPILE_MODES)}"
            )
        check_number("decode_window_frames", self.decode_window_frames, 1, LONGEST_WINDOW, whole=True)
        check_number("paged_gpu_memory_utilization", self.paged_gpu_memory_utilization, 0.01, 0.95)
        self._check_together()

    @property
    def kernels(self) -> str:
        """How frames are made, in the words of `acceleration.Wanted`."""
        if not self.compile_codebook_predictor:
            return "plain"
        return "auto" if self.compile_mode == LEAST_OVERHEAD else "compiled"

    @property
    def inductor_mode(self) -> str:
        """torch.compile's mode. Its own graphs are never used: ours hold more, and may be used from any thread."""
        return "max-autotune-no-cudagraphs" if self.compile_mode.startswith("max-autotune") else "default"

    def check_device(self, kind: str) -> None:
        """Refuse what was asked for by name and cannot be had on a device that is no GPU. Raises ValueError."""
        asked = [name for name in ("use_codebook_cuda_graph", "capture_async_graph") if getattr(self, name)]
        if asked and kind != "cuda":
            raise ValueError(f"{' and '.join(asked)}: a CUDA graph needs an NVIDIA GPU; this model is on the {kind}")

    def _check_together(self) -> None:
        if self.use_codebook_cuda_graph and self.compile_codebook_predictor and self.compile_mode in _GRAPHED_MODES:
            raise ValueError(
                f"use_codebook_cuda_graph conflicts with compile_codebook_predictor in mode {self.compile_mode!r}, "
                "which is a graph already: pass compile_codebook_predictor=False or compile_mode='default'"
            )
        if self.capture_async_graph and not self.use_cuda_graphs:
            raise ValueError("capture_async_graph is a CUDA graph: it conflicts with use_cuda_graphs=False")


def optimized_runner(model: SpeechModel, options: Optimizations, slots: int, positions: int | None) -> Runner:
    """What the options say on this engine, checked against the plain way, captured and measured.

    Graphs need memory that does not move: `positions` for each slot, by default what fits. Raises MemoryError.
    """
    model.talker.text.fold()
    room = model.config.talker.max_positions
    runner = Runner(model, slots, min(positions or _positions(model, slots), room))
    pace = accelerate(runner, wanted(options))
    log.info("%s kernels: this GPU speaks %d of %d streams at once in real time", pace.kernels, pace.capacity, slots)
    return runner


def _positions(model: SpeechModel, slots: int) -> int:
    weight, codec = model.talker.head.weight, model.decoder.quantizer.table
    sizes = footprint(model.config, NumberBytes(weight.dtype.itemsize, codec.dtype.itemsize))
    torch.cuda.empty_cache()
    found = fit(sizes, torch.cuda.mem_get_info(weight.device)[0], slots)
    if found is None:
        raise MemoryError(f"no GPU memory is left for slots={slots}: lower it, or give max_positions")
    return found


def paged_options(options: Optimizations, given: FromPretrained) -> PagedOptions:
    """The paged engine that the options ask for. It always runs in the fastest way that its device knows."""
    paged = PagedOptions()
    return replace(
        paged,
        gpu_memory_utilization=options.paged_gpu_memory_utilization,
        enforce_eager=options.paged_enforce_eager,
        half_codec=options.use_compile,
        slots=max(given.slots, paged.slots),
        max_positions=given.max_positions or paged.max_positions,
    )


def wanted(options: Optimizations) -> AccelerationOptions:
    """The options in the engine's own words."""
    return AccelerationOptions(
        kernels=options.kernels,
        graphs=options.use_cuda_graphs,
        half_codec=options.use_compile,
        codec_alone=options.use_compile,
        inductor_mode=options.inductor_mode,
        predictor_graph=options.use_codebook_cuda_graph,
    )
