"""The eager decode step compiled by Inductor: the same code, with small operations fused by torch.compile.

For diagnosis, and for GPUs on which the hand-written kernels do not run. Compiling takes a minute or more for each
batch size and length, but only once: the result is kept in Inductor's disk cache.
"""

from __future__ import annotations

from functools import partial

import torch

from ..model.speech_model import SpeechModel
from ..runtime.decode_step import EagerDecodeStep, eager_draw, eager_talk
from ..runtime.slot_state import SlotState


class CompiledDecodeStep(EagerDecodeStep):
    """Talker and code predictor, each compiled as a whole for static shapes."""

    def __init__(self, model: SpeechModel, state: SlotState, mode: str = "default") -> None:
        """Create the step; `mode` is that of torch.compile and must not use CUDA graphs itself."""
        torch._dynamo.config.recompile_limit = 64  # one compilation per batch size and length
        compiled = partial(torch.compile, fullgraph=True, dynamic=False, mode=mode)
        super().__init__(model, state, compiled(eager_talk(model, state)), compiled(eager_draw(model, state)))
