"""A runner on a GPU that is as fast as the options allow, for the Python API."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from ..acceleration.select import AccelerationOptions, accelerate
from ..checkpoint.memory_footprint import NumberBytes, footprint
from ..checkpoint.memory_plan import fit
from ..model.speech_model import SpeechModel
from ..runtime.model_runner import Runner
from .inputs import FromPretrained
from .optimizations import Optimizations
from .paged_engine import PagedOptions

log = logging.getLogger(__name__)


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
