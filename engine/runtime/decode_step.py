"""One frame of a batch, as device operations only, so that it can be captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ..model.speech_model import SpeechModel
from ..model.talker import BatchRows
from .slot_state import RING_FRAMES, SlotState

Talk = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""The talker's step: (inputs [B, H], slots [B], positions read by attention) → hidden [B, H], logits [B, vocab]."""
DrawCodes = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Sampler and code predictor: (hidden [B, H], logits [B, vocab], slots, active) → codes [B, 16]."""


class DecodeStep(Protocol):
    """Computes one frame for the rows of a batch, using device operations only."""

    @property
    def reads_length(self) -> bool:
        """True if the result depends on `length`; otherwise one graph serves all lengths."""

    def __call__(self, slots: Tensor, text: Tensor, active: Tensor, length: int) -> Tensor:
        """See `EagerDecodeStep`."""


class EagerDecodeStep:
    """Talker, sampler and code predictor in eager torch. No shape or branch depends on tensor contents."""

    def __init__(
        self,
        model: SpeechModel,
        state: SlotState,
        talk: Talk | None = None,
        draw: DrawCodes | None = None,
        reads_length: bool = True,
    ) -> None:
        """Create the step; `talk` and `draw` each replace one half of it."""
        self._model, self._state, self.reads_length = model, state, reads_length
        self.talk = talk or eager_talk(model, state)
        self.draw = draw or eager_draw(model, state)
        self._last_code = model.config.codec.decoder.codebook_size - 1

    def with_draw(self, draw: DrawCodes) -> EagerDecodeStep:
        """Return a copy of this step with `draw` as its second half."""
        return EagerDecodeStep(self._model, self._state, self.talk, draw, self.reads_length)

    def __call__(self, slots: Tensor, text: Tensor, active: Tensor, length: int) -> Tensor:
        """Compute the next frame and save it in the slot state: slots int64 [B], active bool [B] → codes int64 [B, 16].

        `text`: text ids int64 [B] or, if the embedding table is in host memory, its rows [B, text width]. Attention
        reads `length` positions. Inactive rows use the spare slot, which may occur more than once.
        """
        state, talker = self._state, self._model.talker
        hidden, logits = self.talk(state.frame[slots] + talker.text(text), slots, length)
        codes = self.draw(hidden, logits, slots, active)
        state.frame.index_copy_(0, slots, talker.codes(codes))
        # The last sample of a job may be its end token, which is not in any codebook; that frame is discarded.
        state.codes[slots, state.made[slots] % RING_FRAMES] = codes.clamp(max=self._last_code)
        count = active.long()
        state.next.index_add_(0, slots, count)
        state.made.index_add_(0, slots, count)
        return codes


def eager_talk(model: SpeechModel, state: SlotState) -> Talk:
    """Return the talker's step; it uses the cache that `state` has at the time of the call."""

    def talk(inputs: Tensor, slots: Tensor, length: int) -> tuple[Tensor, Tensor]:
        return model.talker.step(inputs, state.cache, BatchRows(slots, state.next[slots], length))

    return talk


def eager_draw(model: SpeechModel, state: SlotState) -> DrawCodes:
    """Return the sampling half of the step: group 0 from the logits, the other groups from the hidden state."""

    def draw(hidden: Tensor, logits: Tensor, slots: Tensor, active: Tensor) -> Tensor:
        first = state.sampler.talker(logits, slots, active)
        noise = state.sampler.predictor_noise(slots)  # [B, 15, 2048]

        def choose(scores: Tensor, group: int) -> Tensor:
            return state.sampler.predictor(scores, slots, noise[:, group - 1])

        return model.code_predictor.frame(hidden, first, state.predictor, choose)

    return draw
