"""One frame of a batch as device operations only, so that it can be captured in a CUDA graph."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..model.speech_model import SpeechModel
from ..model.talker import BatchRows
from .slot_state import RING_FRAMES, SlotState


class DecodeStep(Protocol):
    """One frame for the rows of a batch, made of device operations only."""

    reads_length: bool
    """Whether `length` changes what is computed; if not, one graph serves all lengths."""

    def __call__(self, slots: Tensor, text: Tensor, active: Tensor, length: int) -> Tensor:
        """See `EagerDecodeStep`."""


class EagerDecodeStep:
    """Talker, sampler and code predictor in plain torch. No shape and no branch depends on what tensors hold."""

    reads_length = True

    def __init__(self, model: SpeechModel, state: SlotState) -> None:
        self._model, self._state = model, state
        self._last_code = model.config.codec.decoder.codebook_size - 1

    def __call__(self, slots: Tensor, text: Tensor, active: Tensor, length: int) -> Tensor:
        """Make and remember the next frame: slots int64 [B], active bool [B] → codes int64 [B, 16].

        `text`: the text ids int64 [B] or, of a table in host memory, their rows [B, text width]. Attention reads
        `length` positions. Rows that are not active stand in the spare slot, as often as needed.
        """
        state, talker = self._state, self._model.talker
        hidden, logits = self._talk(state.frame[slots] + talker.text(text), slots, length)
        codes = self.draw(hidden, logits, slots, active)
        state.frame.index_copy_(0, slots, talker.codes(codes))
        # The last sample of a job is its end, which no codebook knows; what becomes of it is never heard.
        state.codes[slots, state.made[slots] % RING_FRAMES] = codes.clamp(max=self._last_code)
        count = active.long()
        state.next.index_add_(0, slots, count)
        state.made.index_add_(0, slots, count)
        return codes

    def _talk(self, inputs: Tensor, slots: Tensor, length: int) -> tuple[Tensor, Tensor]:
        state = self._state
        return self._model.talker.step(inputs, state.cache, BatchRows(slots, state.next[slots], length))

    def draw(self, hidden: Tensor, logits: Tensor, slots: Tensor, active: Tensor) -> Tensor:
        """All codes of the frame [B, 16], group 0 from its scores [B, vocab] and the others from hidden [B, H]."""
        state = self._state
        first = state.sampler.talker(logits, slots, active)
        noise = state.sampler.predictor_noise(slots)  # [B, 15, 2048]

        def choose(scores: Tensor, group: int) -> Tensor:
            return state.sampler.predictor(scores, slots, noise[:, group - 1])

        return self._model.code_predictor.frame(hidden, first, state.predictor, choose)
