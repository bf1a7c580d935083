"""One frame for a batch of slots in fused kernels: equivalent to `EagerDecodeStep`, in five launches per layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from ..kernels.attention import Past
from ..kernels.launch import Launch, enqueue, next_power_of_2
from ..kernels.layer import FusedLayer, norm_of
from ..kernels.linear import Linear
from ..kernels.sampling import begin_frame, draw_predictor, draw_talker, end_frame
from ..model.speech_model import SpeechModel
from ..runtime.slot_state import SlotState

_KEY_BITS = {torch.bfloat16: 16, torch.float16: 20, torch.float32: 32}
"""Number of leading bits that can differ in a score's float32 representation."""

_WIDTH = 512  # columns per program in `begin_frame` and `end_frame`


@dataclass(frozen=True, slots=True)
class FusedBatch:
    """The rows of one step: slots [B], indices of their text in an embedding table, active [B]."""

    slots: Tensor
    text_table: Tensor
    text_rows: Tensor
    active: Tensor


class FusedDecodeStep:
    """Device operations only, with static shapes. The text table and the predictor's table must be folded."""

    def __init__(self, model: SpeechModel, state: SlotState) -> None:
        self._model, self._state = model, state
        talker, predictor = model.talker, model.code_predictor
        assert talker.text.folded, "the text table must be folded first"
        self._counting = torch.arange(state.predictor.layers[0].keys.shape[0], device=talker.head.weight.device)
        self._last_code = model.config.codec.decoder.codebook_size - 1
        self._launch = launch = Launch.on(talker.head.weight.device)
        self._talker = [FusedLayer.of(layer, launch) for layer in talker.layers]
        self._head = Linear(talker.head.weight, launch, norm_of(talker.norm))
        self._predictor = [FusedLayer.of(layer, launch) for layer in predictor.layers]
        self._heads = [Linear(head, launch, norm_of(predictor.norm)) for head in predictor.heads]
        assert len(self._predictor) > 1, "a layer's keys must be written when the next layer's attention begins"
        project = predictor.project
        self._project = (
            Linear(project.weight, launch, norm_of(talker.norm), bias=project.bias)
            if isinstance(project, torch.nn.Linear)
            else None
        )
        self._table = predictor.codes.weight if predictor.projected is None else predictor.projected
        assert self._project is None or predictor.projected is not None, "the predictor's table must be folded first"

    reads_length = False

    def __call__(self, slots: Tensor, text: Tensor, active: Tensor, length: int) -> Tensor:
        """See `EagerDecodeStep`. Attention reads up to each slot's position, ignoring `length`."""
        batch = self.batch(slots, text, active)
        x, parts = self.talker(batch)
        codes, first = self._first_code(x, parts, batch)
        self.later_codes(first, codes, batch)
        self._finish(codes, batch)
        return codes

    def batch(self, slots: Tensor, text: Tensor, active: Tensor) -> FusedBatch:
        """Convert text ids [B], or their embeddings [B, H], to the kernels' inputs."""
        if text.is_floating_point():
            return FusedBatch(slots, text, self._counting[: len(slots)], active)
        return FusedBatch(slots, self._model.talker.text.table, text, active)

    def talker(self, batch: FusedBatch) -> tuple[Tensor, Tensor | None]:
        """Return the talker's last layer output [B, H] before the final norm, and split-K parts for the norm to add."""
        state, frame = self._state, self._state.frame
        rows, width = len(batch.slots), frame.shape[1]
        x = frame.new_empty(rows, width)
        enqueue(
            begin_frame, (rows, triton.cdiv(width, _WIDTH)),
            frame, batch.text_table, batch.slots, batch.text_rows, x,
            WIDTH=width, BLOCK_W=_WIDTH, **self._launch.options,
        )  # fmt: skip
        cache, parts = state.cache, None
        for layer, kept in zip(self._talker, cache.layers, strict=True):
            past = Past(kept.keys, kept.values, cache.cos, cache.sin, batch.slots, state.next, cache.table)
            parts = layer(x, parts, past)
        return x, parts

    def first_scores(self, hidden: Tensor, code0: Tensor) -> Tensor:
        """Compute `CodePredictor.first`: hidden [B, H], codes [B] → logits [B, V] of group 1."""
        inputs = (self._model.code_predictor.project(hidden), F.embedding(code0, self._table))
        x, parts = self._first_pass(torch.stack(inputs, dim=1).flatten(0, 1))  # [2 · B, P]
        return self._heads[0](x, x.new_empty(len(code0), self._heads[0].weight.shape[0]), parts)

    def _first_code(self, x: Tensor, parts: Tensor | None, batch: FusedBatch) -> tuple[Tensor, Tensor]:
        """Sample group 0 into codes [B, 16]; return the codes and the code predictor's first two inputs [2 · B, P]."""
        config, sampler = self._model.config.talker, self._state.sampler
        rows, width = x.shape[0], self._table.shape[1]
        logits = self._head(x, x.new_empty(rows, config.vocab_size), parts)
        first = x.new_empty(rows, 2, width)
        if self._project:
            self._project(x, first[:, 0])
        else:
            norm = self._model.talker.norm
            first[:, 0] = F.rms_norm(x, norm.normalized_shape, norm.weight, norm.eps)
        codes = torch.empty(rows, config.code_groups, dtype=torch.int64, device=x.device)
        rules = sampler.rules
        enqueue(
            draw_talker, (rows,),
            logits, batch.slots, batch.active, sampler.draws, sampler.penalty, sampler.window, sampler.min_new,
            sampler.seed, sampler.samples, sampler.counts, sampler.ring, codes, self._table, first,
            VOCAB=rules.vocab, BLOCK=next_power_of_2(rules.vocab), EOS=rules.eos, SILENT=rules.suppressed,
            RING=sampler.ring.shape[1], GROUPS=config.code_groups, **self._row_of(width),
        )  # fmt: skip
        return codes, first.view(2 * rows, width)

    def later_codes(self, x: Tensor, codes: Tensor, batch: FusedBatch) -> None:
        """Sample groups 1 to 15 into codes [B, 16], one pass over the predictor's layers each, the first on x [2 · B,
        P].
        """
        groups = codes.shape[1]
        x, parts = self._first_pass(x)
        for group in range(1, groups):
            self._draw(x, parts, codes, batch, group)
            if group < groups - 1:
                parts = self._pass(x, group + 1, 1)

    def _first_pass(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run two positions x [2 · B, P]; return the output [B, P] of the second, and parts for the norm to add."""
        parts = self._pass(x, 0, 2)
        return x[1::2], None if parts is None else parts[:, 1::2]

    def _pass(self, x: Tensor, start: int, steps: int) -> Tensor | None:
        cache, parts = self._state.predictor, None
        for layer, kept in zip(self._predictor, cache.layers, strict=True):
            parts = layer(x, parts, Past(kept.keys, kept.values, cache.cos, cache.sin), start, steps)
        return parts

    def _draw(self, x: Tensor, parts: Tensor | None, codes: Tensor, batch: FusedBatch, group: int) -> None:
        """Sample `group` from the output x [B, P], which is then overwritten with the sampled code's embedding."""
        config, sampler = self._model.code_predictor.config, self._state.sampler
        rows, vocab = x.shape[0], config.vocab_size
        logits = self._heads[group - 1](x, x.new_empty(rows, vocab), parts)
        enqueue(
            draw_predictor, (rows,),
            logits, batch.slots, sampler.draws, sampler.seed, sampler.samples, codes, self._table, x, x.stride(0),
            self._model.code_predictor.codes.vocab_size + (group - 1) * vocab, group,
            VOCAB=vocab, BLOCK=next_power_of_2(vocab), BITS=_KEY_BITS[x.dtype], GROUPS=config.code_groups,
            **self._row_of(x.shape[1]),
        )  # fmt: skip

    def _finish(self, codes: Tensor, batch: FusedBatch) -> None:
        state, table = self._state, self._model.talker.codes
        rows, groups = codes.shape
        width = table.weight.shape[1]
        enqueue(
            end_frame, (rows, triton.cdiv(width, _WIDTH)),
            codes, table.offsets, table.weight, state.frame, batch.slots, batch.active, state.next, state.made,
            state.codes, LAST_CODE=self._last_code, GROUPS=groups, RING=state.codes.shape[1], WIDTH=width,
            BLOCK_W=_WIDTH, **self._launch.options,
        )  # fmt: skip

    def _row_of(self, width: int) -> dict[str, Any]:
        return {"WIDTH": width, "BLOCK_W": next_power_of_2(width), "num_warps": 4, **self._launch.options}
