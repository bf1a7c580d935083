"""One frame of a batch as device operations only, so that it can be captured in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ..model.speech_model import SpeechModel
from ..model.talker import BatchRows
from .slot_state import RING_FRAMES, SlotState

Talk = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""The talker's step: (inputs [B, H], slots [B], positions that attention reads) → hidden [B, H], logits [B, vocab]."""
DrawCodes = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""The sampler and the code predictor: (hidden [B, H], logits [B, vocab], slots, active) → codes [B, 16]."""


class DecodeStep(Protocol):
    """One frame for the rows of a batch, made of device operations only."""

    @property
    def reads_length(self) -> bool:
        """Whether `length` changes what is computed; if not, one graph serves all lengths."""

    def __call__(self, slots: Tensor, text: Tensor, active: Tensor, length: int) -> Tensor:
        """See `EagerDecodeStep`."""


class EagerDecodeStep:
    """Talker, sampler and code predictor in torch. No shape and no branch depends on what tensors hold."""

    def __init__(
        self,
        model: SpeechModel,
        state: SlotState,
        talk: Talk | None = None,
        draw: DrawCodes | None = None,
        reads_length: bool = True,
    ) -> None:
        """`talk` and `draw` replace one half of the step each."""
        self._model, self._state, self.reads_length = model, state, reads_length
        self.talk = talk or eager_talk(model, state)
        self.draw = draw or eager_draw(model, state)
        self._last_code = model.config.codec.decoder.codebook_size - 1

    def with_draw(self, draw: DrawCodes) -> EagerDecodeStep:
        """Return the same step with another second half."""
        return EagerDecodeStep(self._model, self._state, self.talk, draw, self.reads_length)

    def __call__(self, slots: Tensor, text: Tensor, active: Tensor, length: int) -> Tensor:
        """Make and remember the next frame: slots int64 [B], active bool [B] → codes int64 [B, 16].

        `text`: the text ids int64 [B] or, of a table in host memory, their rows [B, text width]. Attention reads
        `length` positions. Rows that are not active use the spare slot, as often as needed.
        """
        state, talker = self._state, self._model.talker
        hidden, logits = self.talk(state.frame[slots] + talker.text(text), slots, length)
        codes = self.draw(hidden, logits, slots, active)
        state.frame.index_copy_(0, slots, talker.codes(codes))
        # A job's last sample is its end, which no codebook contains; the frame made of it is dropped.
        state.codes[slots, state.made[slots] % RING_FRAMES] = codes.clamp(max=self._last_code)
        count = active.long()
        state.next.index_add_(0, slots, count)
        state.made.index_add_(0, slots, count)
        return codes


def eager_talk(model: SpeechModel, state: SlotState) -> Talk:
    """Return the talker's step over the cache that `state` has when it is called."""

    def talk(inputs: Tensor, slots: Tensor, length: int) -> tuple[Tensor, Tensor]:
        return model.talker.step(inputs, state.cache, BatchRows(slots, state.next[slots], length))

    return talk


def eager_draw(model: SpeechModel, state: SlotState) -> DrawCodes:
    """Return the drawing of a frame: group 0 from its scores, the others from the hidden state."""

    def draw(hidden: Tensor, logits: Tensor, slots: Tensor, active: Tensor) -> Tensor:
        first = state.sampler.talker(logits, slots, active)
        noise = state.sampler.predictor_noise(slots)  # [B, 15, 2048]

        def choose(scores: Tensor, group: int) -> Tensor:
            return state.sampler.predictor(scores, slots, noise[:, group - 1])

        return model.code_predictor.frame(hidden, first, state.predictor, choose)

    return draw
