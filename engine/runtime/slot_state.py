"""Device state of running sequences, one row per slot, in buffers with fixed addresses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.code_predictor import CodePredictorCache
from ..model.speech_model import SpeechModel
from ..model.talker import Cache
from .sampler import CodeRules, Sampler, SamplerLimits

RING_FRAMES = 128


def bucket(rows: int) -> int:
    """Return the batch size used for `rows` rows: the next power of two."""
    return 1 << max(rows - 1, 0).bit_length()


@dataclass(slots=True)
class SlotState:
    """Slot number `slots` is a spare: padding rows use it, and voices are primed in it.

    Only `cache` may be replaced, by a longer one or one of another kind.
    """

    slots: int
    cache: Cache
    predictor: CodePredictorCache
    sampler: Sampler
    frame: Tensor  # [slots + 1, H] embedding of each slot's last frame, the codec part of its next input
    next: Tensor  # [slots + 1] int64 position of the next input
    made: Tensor  # [slots + 1] int64 total frames generated in the slot, across all jobs
    codes: Tensor  # [slots + 1, RING_FRAMES, 16] int64: frame n of a slot at n % RING_FRAMES, read by the codec

    @classmethod
    def allocate(cls, model: SpeechModel, slots: int, positions: int) -> SlotState:
        """Allocate state for `slots` sequences of at most `positions` positions, on the model's device."""
        config, weight = model.config, model.talker.head.weight
        rules = CodeRules(
            vocab=config.talker.vocab_size,
            eos=config.talker.ids.eos,
            predictor_vocab=config.code_predictor.vocab_size,
            code_groups=config.talker.code_groups,
        )
        rows, device = slots + 1, weight.device
        return cls(
            slots=slots,
            cache=model.talker.allocate(rows, positions),
            predictor=model.code_predictor.allocate(bucket(slots)),
            sampler=Sampler(rows, rules, SamplerLimits(), device),
            frame=weight.new_zeros(rows, weight.shape[1]),
            next=torch.zeros(rows, dtype=torch.int64, device=device),
            made=torch.zeros(rows, dtype=torch.int64, device=device),
            codes=torch.zeros(rows, RING_FRAMES, rules.code_groups, dtype=torch.int64, device=device),
        )
