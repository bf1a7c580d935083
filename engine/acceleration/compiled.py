"""The plain frame through Inductor: the same code, its small operations fused by torch.compile.

For diagnosis, and for GPUs where the hand-written kernels do not run. Each batch size and length is compiled for a
minute or more, once: the result is kept in Inductor's cache on disk.
"""

from __future__ import annotations

import torch

from ..model.speech_model import SpeechModel
from ..runtime.decode_step import EagerDecodeStep
from ..runtime.slot_state import SlotState


class CompiledDecodeStep(EagerDecodeStep):
    """Talker and code predictor compiled each as a whole, for static shapes."""

    def __init__(self, model: SpeechModel, state: SlotState, mode: str = "default") -> None:
        """`mode`: torch.compile's, one without graphs of its own."""
        super().__init__(model, state)
        torch._dynamo.config.recompile_limit = 64  # one compilation for each batch size and length
        self._talk = torch.compile(self._talk, fullgraph=True, dynamic=False, mode=mode)  # type: ignore[method-assign]
        self.draw = torch.compile(self.draw, fullgraph=True, dynamic=False, mode=mode)  # type: ignore[method-assign]
