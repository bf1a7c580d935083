"""Sampling on the device: parameters per row, no synchronisation with the host, static shapes.

The same (seed, sample, code group) always yields the same noise, regardless of the rest of the batch, on CPU and CUDA:
the noise is a hash of these numbers and the vocabulary index, and the argmax of logit + Gumbel noise is a sample of the
softmax. Everything except `join` can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.config import CODE_GROUPS, CODEBOOK_SIZE
from ..prompt.sampling_params import Draw, SamplingParams
from .transfer import upload

_NEVER = float("-inf")


def _signed(constant: int) -> int:
    """Return a 64-bit constant as the two's-complement number that torch.int64 expects."""
    return constant - (1 << 64) if constant >> 63 else constant


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(bits: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser; int64 products wrap, and the masks turn arithmetic shifts into logical ones."""
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _MIX_1
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _MIX_2
    return bits ^ ((bits >> 31) & ((1 << 33) - 1))


class Noise:
    """Counter-based, stateless Gumbel noise for some code groups of one vocabulary."""

    def __init__(self, groups: range, vocab: int, device: torch.device | str = "cpu") -> None:
        self._groups = torch.tensor(list(groups), dtype=torch.int64, device=device) * _GOLDEN  # [groups]
        self._steps = torch.arange(1, vocab + 1, dtype=torch.int64, device=device) * _GOLDEN  # [vocab]

    def draw(self, seed: Tensor, sample: Tensor) -> Tensor:
        """Return noise for seeds and sample numbers: int64 [rows] each → float32 [rows, groups, vocab]."""
        rows = _mix(_mix(seed + _GOLDEN) + sample)  # [rows]
        keys = _mix(rows[:, None] + self._groups)  # [rows, groups]
        bits = _mix(keys[:, :, None] + self._steps)  # [rows, groups, vocab]
        # 23 bits plus half a step: exact in float32, never 0, never 1
        uniform = ((bits >> 41) & 0x7FFFFF).float() * 2.0**-23 + 2.0**-24
        return -torch.log(-torch.log(uniform))


class DrawRows(NamedTuple):
    """The fields of `Draw` for each row of a batch: [rows, 1] each."""

    temperature: Tensor
    top_k: Tensor  # int64
    top_p: Tensor
    greedy: Tensor  # bool


def pick(logits: Tensor, noise: Tensor, rows: DrawRows, k_limit: int | None = None, nucleus: bool = True) -> Tensor:
    """Sample one id per row: temperature, top-k, top-p, then the argmax of the rest plus noise; or plain argmax if
    greedy.

    logits and noise [rows, vocab] → int64 [rows]. Logits tied with the k-th are kept, and so are those tied with the
    one that takes the sum past top-p, so that the result does not depend on their order. `k_limit` bounds top-k
    statically, which avoids the full sort, and `nucleus` False skips top-p; `SamplingParams.fits` checks whether a
    job's parameters allow this.
    """
    logits = logits.float()
    scaled = logits / rows.temperature
    floor = _floor(scaled, rows, k_limit, nucleus)  # [rows, 1]
    drawn = torch.where(scaled >= floor, scaled + noise, _NEVER)
    return torch.where(rows.greedy, logits, drawn).argmax(dim=1)


def _floor(scaled: Tensor, rows: DrawRows, k_limit: int | None, nucleus: bool) -> Tensor:
    """Return the smallest scaled logit that may be sampled: [rows, vocab] → [rows, 1]."""
    vocab = scaled.shape[1]
    limit = min(k_limit or vocab, vocab)
    ordered = scaled.topk(limit, dim=1).values  # [rows, limit], descending
    k = torch.where(rows.top_k > 0, rows.top_k, vocab).clamp(max=limit)
    kth = ordered.gather(1, k - 1)
    if not nucleus:
        return kth
    total = scaled.masked_fill(scaled < kth, _NEVER).logsumexp(dim=1, keepdim=True)
    share = (ordered - total).exp()
    before = share.cumsum(dim=1) - share  # cumulative probability of all preceding logits
    inside = (ordered >= kth) & (before < rows.top_p)
    crossing = ordered.masked_fill(~inside, float("inf")).amin(dim=1, keepdim=True)
    return torch.where(rows.top_p < 1, crossing, kth)


@dataclass(frozen=True, slots=True)
class CodeRules:
    """The talker's vocabulary: its end token, and which ids are not speech codes."""

    vocab: int = 3072
    eos: int = 2150
    suppressed: int = 1024  # number of ids at the end of the vocabulary that are never sampled, except EOS
    predictor_vocab: int = CODEBOOK_SIZE
    code_groups: int = CODE_GROUPS


@dataclass(frozen=True, slots=True)
class SamplerLimits:
    """Limits that a sampler is built for, fixed when its graph is captured."""

    k_limit: int | None = None
    nucleus: bool = True
    window: int = 512


class Sampler:
    """Sampling parameters, seeds and code history of every slot, and the sampling itself.

    `slots` arguments are int64 [rows]; inactive padding rows may share one spare slot. A step calls `talker` once, then
    `predictor` for groups 1… with rows of `predictor_noise`.
    """

    def __init__(self, slots: int, rules: CodeRules, limits: SamplerLimits, device: torch.device | str = "cpu") -> None:
        self.rules, self.limits = rules, limits
        self.draws = torch.ones(slots, 2, 4, device=device)  # talker, predictor × the fields of DrawRows
        self.penalty = torch.ones(slots, device=device)
        self._numbers = torch.zeros(4, slots, dtype=torch.int64, device=device)
        self.window, self.min_new, self.seed, self.samples = self._numbers  # [slots] each
        self.counts = torch.zeros(slots, rules.vocab, dtype=torch.int32, device=device)  # per code, in the window
        self.ring = torch.zeros(slots, max(limits.window, 1), dtype=torch.int64, device=device)
        ids = torch.arange(rules.vocab, device=device)
        self._is_eos = ids == rules.eos  # [vocab]
        self._silent = (ids >= rules.vocab - rules.suppressed) & ~self._is_eos
        self._talker_noise = Noise(range(1), rules.vocab, device)
        self._predictor_noise = Noise(range(1, rules.code_groups), rules.predictor_vocab, device)

    def join(self, slot: int, params: SamplingParams, seed: int) -> None:
        """Set up a slot for a new job. The caller must have checked `params.fits`."""
        assert params.fits(self.limits.k_limit, self.limits.nucleus, self.limits.window), params
        fields = [fields_of(params.talker), fields_of(params.predictor)]
        numbers = [params.penalty_window, params.min_new_tokens, seed, 0]
        self.draws[slot] = upload(fields, self.draws.device, self.draws.dtype)
        self._numbers[:, slot] = upload(numbers, self._numbers.device)
        self.penalty[slot].fill_(params.repetition_penalty)  # `[slot] = ` would synchronise with the device
        self.counts[slot].zero_()

    def talker(self, logits: Tensor, slots: Tensor, active: Tensor) -> Tensor:
        """Sample group 0 and record it where `active` (bool [rows]): [rows, vocab] → int64 [rows]."""
        noise = self._talker_noise.draw(self.seed[slots], self.samples[slots])[:, 0]
        ids = self._pick(self._apply_rules(logits, slots), noise, slots, 0)
        self._record(ids, slots, active)
        return ids

    def predictor_noise(self, slots: Tensor) -> Tensor:
        """Return noise for groups 1… of the frame whose group 0 was sampled last: float32 [rows, groups - 1, vocab]."""
        return self._predictor_noise.draw(self.seed[slots], self.samples[slots] - 1)

    def predictor(self, logits: Tensor, slots: Tensor, noise: Tensor) -> Tensor:
        """Sample one later group, without any rules: [rows, predictor vocab] twice → int64 [rows]."""
        return self._pick(logits, noise, slots, 1)

    def _pick(self, logits: Tensor, noise: Tensor, slots: Tensor, which: int) -> Tensor:
        rows = rows_of(self.draws[:, which][slots])
        return pick(logits, noise, rows, self.limits.k_limit, self.limits.nucleus)

    def _apply_rules(self, logits: Tensor, slots: Tensor) -> Tensor:
        """Apply the repetition penalty and mask early EOS and all ids that are not speech codes."""
        logits = logits.float()
        penalty = self.penalty[slots, None]  # [rows, 1]
        milder = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(self.counts[slots] > 0, milder, logits)
        too_early = (self.samples[slots] < self.min_new[slots])[:, None] & self._is_eos
        return logits.masked_fill(too_early | self._silent, _NEVER)

    def _record(self, ids: Tensor, slots: Tensor, active: Tensor) -> None:
        """Count the new code and drop the one that leaves the window; in place, inactive rows unchanged."""
        samples, window = self.samples[slots], self.window[slots]
        size = self.ring.shape[1]
        leaving = self.ring[slots, (samples - window) % size]
        leaves = active & (window > 0) & (samples >= window)
        counts = self.counts.view(-1)
        counts.scatter_add_(0, slots * self.rules.vocab + leaving, -leaves.int())
        counts.scatter_add_(0, slots * self.rules.vocab + ids, active.int())
        place = samples % size
        self.ring[slots, place] = torch.where(active, ids, self.ring[slots, place])
        self.samples.scatter_add_(0, slots, active.long())


def rows_of(draws: Tensor) -> DrawRows:
    """Convert rows of `fields_of`, [rows, 4], to the form that `pick` takes."""
    return DrawRows(draws[:, 0:1], draws[:, 1:2].long(), draws[:, 2:3], draws[:, 3:4] > 0)


def fields_of(draw: Draw) -> list[float]:
    """Return the fields of a `Draw` in the order of `DrawRows`; float32 represents every relevant top_k exactly."""
    return [draw.temperature, float(min(draw.top_k, 1 << 24)), draw.top_p, float(not draw.do_sample)]
