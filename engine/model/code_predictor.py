"""The code predictor: code groups 1 to 15 of one frame, in 15 passes over a cache that each frame starts afresh."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import FrameCache, rotary_table, visible_bias
from .config import CodePredictorConfig
from .layers import DecoderLayer, FrameEmbedding, module_list

Choose = Callable[[Tensor, int], Tensor]
"""Sampler called after each pass: (logits [B, 2048], group 1…15) → codes [B]."""


class CodePredictorCache(nn.Module):
    """KV cache for the 16 positions of one frame, for up to `rows` sequences."""

    cos: Tensor
    sin: Tensor
    first_bias: Tensor

    def __init__(self, config: CodePredictorConfig, rows: int, like: Tensor) -> None:
        super().__init__()
        t = config.transformer
        shape = (rows, t.kv_heads, config.code_groups, t.head_dim)
        self.layers = module_list(FrameCache(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(t.layers))
        cos, sin = rotary_table(t.head_dim, t.rope_theta, config.code_groups, like.device, like.dtype)
        self.register_buffer("cos", cos, persistent=False)  # [16, head_dim]
        self.register_buffer("sin", sin, persistent=False)
        causal = torch.ones(1, 2, 2, dtype=torch.bool, device=like.device).tril()
        self.register_buffer("first_bias", visible_bias(causal, t.heads // t.kv_heads, like.dtype), persistent=False)


class CodePredictor(nn.Module):
    """Decoder layers with one head per group. The input is the talker's embeddings, projected if the widths differ."""

    projected: Tensor | None

    def __init__(self, config: CodePredictorConfig, codes: FrameEmbedding) -> None:
        super().__init__()
        self.config, self.codes = config, codes
        t, width = config.transformer, codes.weight.shape[1]
        self.project = nn.Linear(width, t.hidden_size) if width != t.hidden_size else nn.Identity()
        self.layers = module_list(DecoderLayer(t, True) for _ in range(t.layers))
        self.norm = nn.RMSNorm(t.hidden_size, eps=t.norm_eps)
        self.heads = nn.Parameter(torch.empty(config.code_groups - 1, config.vocab_size, t.hidden_size))
        self.register_buffer("projected", None, persistent=False)

    def allocate(self, rows: int) -> CodePredictorCache:
        """Allocate static buffers for batches of up to `rows` sequences, on this model's device."""
        return CodePredictorCache(self.config, rows, self.heads)

    @torch.no_grad()
    def fold_projection(self) -> None:
        """Project the embedding tables once, which saves 14 of 15 matrix products, of 4 MB weights each, per frame."""
        if isinstance(self.project, nn.Linear):
            self.projected = self.project(self.codes.weight)  # [3072 + 15 · 2048, P]

    def frame(self, hidden: Tensor, code0: Tensor, cache: CodePredictorCache, choose: Choose) -> Tensor:
        """Generate a frame: the talker's hidden [B, H] and group-0 codes [B] → all codes of the frame [B, 16]."""
        logits = self.first(hidden, code0, cache)
        return torch.stack([code0, *self._rest(logits, cache, choose)], dim=1)

    def later(self, inputs: Tensor, cache: CodePredictorCache, choose: Choose) -> Tensor:
        """Generate the later codes [B, 15] from the talker's hidden state and the embedding of group 0, [B, 2, H]."""
        logits = self._pass(self.project(inputs), 0, cache, cache.first_bias)
        return torch.stack(self._rest(logits, cache, choose), dim=1)

    def first(self, hidden: Tensor, code0: Tensor, cache: CodePredictorCache) -> Tensor:
        """Compute positions 0 and 1: hidden [B, H], code0 [B] → logits [B, 2048] of group 1."""
        inputs = torch.stack((self.project(hidden), self._embed(0, code0)), dim=1)
        return self._pass(inputs, 0, cache, cache.first_bias)

    def next(self, group: int, codes: Tensor, cache: CodePredictorCache) -> Tensor:
        """Compute position group + 1: codes [B] of `group` (1…14) → logits [B, 2048] of the next group."""
        return self._pass(self._embed(group, codes).unsqueeze(1), group + 1, cache, None)

    def _rest(self, logits: Tensor, cache: CodePredictorCache, choose: Choose) -> list[Tensor]:
        """Return the codes [B] of groups 1…15, given the logits of group 1."""
        codes: list[Tensor] = []
        for group in range(1, self.config.code_groups):
            codes.append(choose(logits, group))
            if group < self.config.code_groups - 1:
                logits = self.next(group, codes[-1], cache)
        return codes

    def _embed(self, group: int, codes: Tensor) -> Tensor:
        rows = self.codes.row(group, codes)
        if self.projected is not None:
            return F.embedding(rows, self.projected)
        return self.project(F.embedding(rows, self.codes.weight))  # [B, P]

    def _pass(self, x: Tensor, start: int, cache: CodePredictorCache, bias: Tensor | None) -> Tensor:
        end = start + x.shape[1]
        tables = cache.cos[start:end], cache.sin[start:end]
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            x = layer(x, tables, bias, partial(kept.update, start=start))
        return F.linear(self.norm(x[:, -1]), self.heads[end - 2])
