"""The eager decode step through Inductor: the same code, its small operations fused by torch.compile.

For diagnosis, and for GPUs where the hand-written kernels do not run. Each batch size and length is compiled for a
minute or more, once: the result is kept in Inductor's cache on disk.
"""

from __future__ import annotations

from functools import partial

import torch

from ..model.speech_model import SpeechModel
from ..runtime.decode_step import EagerDecodeStep, eager_draw, eager_talk
from ..runtime.slot_state import SlotState


class CompiledDecodeStep(EagerDecodeStep):
    """Talker and code predictor compiled each as a whole, for static shapes."""

    def __init__(self, model: SpeechModel, state: SlotState, mode: str = "default") -> None:
        """`mode`: torch.compile's, one without graphs of its own."""
        torch._dynamo.config.recompile_limit = 64  # one compilation for each batch size and length
        compiled = partial(torch.compile, fullgraph=True, dynamic=False, mode=mode)
        super().__init__(model, state, compiled(eager_talk(model, state)), compiled(eager_draw(model, state)))
