"""The code predictor's part of a frame as a separate CUDA graph, for steps that are not captured as a whole."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..model.speech_model import SpeechModel
from ..runtime.cuda_graphs import PredictorGraphs
from ..runtime.decode_step import EagerDecodeStep
from ..runtime.slot_state import SlotState


class DrawGraphs:
    """A `DrawCodes` that replays graphs; batches whose exact size was not captured use the step's eager function."""

    def __init__(self, frame: EagerDecodeStep, graphs: PredictorGraphs) -> None:
        self._draw, self._graphs = frame.draw, graphs

    def capture(self, sizes: Iterable[int], model: SpeechModel, state: SlotState) -> None:
        """Capture batches of these sizes, given in ascending order, using the spare slot."""
        weight = model.talker.head.weight
        for rows in sizes:
            slots = torch.full((rows,), state.slots, device=weight.device)
            hidden, logits = weight.new_zeros(rows, weight.shape[1]), weight.new_zeros(rows, weight.shape[0])
            self._graphs.capture((rows, 0), (hidden, logits, slots, slots < state.slots), self._draw)

    def __call__(self, hidden: Tensor, logits: Tensor, slots: Tensor, active: Tensor) -> Tensor:
        graph = self._graphs.find(len(slots))
        exact = graph is not None and len(graph.inputs[0]) == len(slots)
        return graph(hidden, logits, slots, active) if graph and exact else self._draw(hidden, logits, slots, active)


def capture_draw(step: EagerDecodeStep, model: SpeechModel, state: SlotState, sizes: Iterable[int]) -> DrawGraphs:
    """Return graphs of a step's sampling for these batch sizes, for a step that is not captured as a whole."""
    graphs = DrawGraphs(step, PredictorGraphs(model.talker.head.weight.device))
    graphs.capture(sizes, model, state)
    return graphs
