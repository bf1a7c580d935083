"""A runner on a GPU that is as fast as the options allow, for the Python API."""

from __future__ import annotations

import logging

from .acceleration import Wanted, accelerate
from .model.speech_model import SpeechModel
from .optimizations import Optimizations
from .runner import Runner

log = logging.getLogger(__name__)


def optimized_runner(model: SpeechModel, options: Optimizations, slots: int, positions: int) -> Runner:
    """What the options say on this engine, checked against the plain way, captured and measured."""
    model.talker.text.fold()
    runner = Runner(model, slots, positions)
    pace = accelerate(runner, wanted(options))
    log.info("%s kernels: this GPU speaks %d of %d streams at once in real time", pace.kernels, pace.capacity, slots)
    return runner


def wanted(options: Optimizations) -> Wanted:
    """The options in the engine's own words."""
    return Wanted(
        kernels=options.kernels,
        graphs=options.use_cuda_graphs,
        half_codec=options.use_compile,
        codec_alone=options.use_compile,
        inductor_mode=options.inductor_mode,
        predictor_graph=options.use_codebook_cuda_graph,
    )
