"""Options of `enable_streaming_optimizations`, and the runners that they ask for."""

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
"""Frames, two minutes. A window's memory grows with its length; the streaming fork uses 80."""
COMPILE_MODES = ("default", LEAST_OVERHEAD, "max-autotune", "max-autotune-no-cudagraphs")
_GRAPHED_MODES = (LEAST_OVERHEAD, "max-autotune")
_NUMBERS = ("decode_window_frames", "paged_gpu_memory_utilization")
_WORDS = ("compile_mode",)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizations:
    """Names and defaults of the streaming fork. Raises ValueError for bad values and for contradictions.

    use_compile: fused codec kernels (float16), and windows of decode_window_frames frames compiled when the first
    stream with `windowed_decode` starts; windows of other lengths stay eager. compile_codebook_predictor: talker and
    code predictor compiled; with compile_mode "reduce-overhead" by our fused kernels, otherwise by torch.compile in
    that mode. use_cuda_graphs: frames, codec steps and those windows as CUDA graphs. use_codebook_cuda_graph: the code
    predictor as a graph of its own, for `generate_fast` and for frames without a graph. capture_async_graph: those
    windows as graphs for `async_decode` too. use_fast_codebook: ignored, as only the fast way exists.

    use_paged_engine: open the paged engine now, for streams with `use_paged_engine`. It keeps keys and values in
    blocks, which prompts with equal beginnings share, so that more streams fit into the share
    paged_gpu_memory_utilization of the GPU's memory. A single stream is not faster, and is faded out at
    `max_positions`, by default 4096. paged_enforce_eager: without CUDA graphs.
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
        """The `kernels` of `AccelerationOptions`."""
        if not self.compile_codebook_predictor:
            return "plain"
        return "auto" if self.compile_mode == LEAST_OVERHEAD else "compiled"

    @property
    def inductor_mode(self) -> str:
        """The mode of torch.compile, without its own graphs: ours hold more and may be replayed from any thread."""
        return "max-autotune-no-cudagraphs" if self.compile_mode.startswith("max-autotune") else "default"

    def check_device(self, kind: str) -> None:
        """Raises ValueError for options that need a GPU on a device that is not one."""
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
    """Return a runner accelerated by the options, checked against eager kernels and measured.

    Graphs need fixed memory: `positions` for each slot, by default what fits. Raises MemoryError.
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
        raise MemoryError(f"no GPU memory is left for slots={slots}: lower slots, or pass max_positions")
    return found


def paged_options(options: Optimizations, given: FromPretrained) -> PagedOptions:
    """Return the options of the paged engine, which always uses the fastest kernels of its device."""
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
    """Return the options of the acceleration that `options` ask for."""
    return AccelerationOptions(
        kernels=options.kernels,
        graphs=options.use_cuda_graphs,
        half_codec=options.use_compile,
        codec_alone=options.use_compile,
        inductor_mode=options.inductor_mode,
        predictor_graph=options.use_codebook_cuda_graph,
    )
