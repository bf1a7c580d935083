"""The talker: reads text, predicts code group 0 of every frame, and keeps its KV cache in slots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import LayerCache, SlotCache, Store, rotary_table, visible_bias
from .config import TalkerConfig
from .layers import DecoderLayer, FrameEmbedding, module_list


@dataclass(frozen=True, slots=True)
class BatchRows:
    """Slots and positions of a batch: row b is slot slots[b], and its first input is at position starts[b].

    `length` is the number of cache positions that attention reads, static so that a graph can be captured for it. All
    positions written must be less than `length`.
    """

    slots: Tensor  # [B] int64
    starts: Tensor  # [B] int64
    length: int


class TextEmbedding(nn.Module):
    """Text tokens as talker inputs. The large table may be in host memory while the projection is on the GPU."""

    table: nn.Parameter

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        width = config.text_hidden_size
        self.table = nn.Parameter(torch.empty(config.text_vocab_size, width))
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, config.transformer.hidden_size)
        self.folded = False

    def forward(self, text: Tensor) -> Tensor:
        """Map int64 ids [...] on any device, or their `rows`, → [..., H] on the projection's device."""
        rows = (text if text.is_floating_point() else self.rows(text)).to(self.fc1.weight.device)
        return rows if self.folded else self.fc2(F.silu(self.fc1(rows)))

    def rows(self, ids: Tensor) -> Tensor:
        """Return the table rows of ids [...]: [..., width], on the table's device."""
        return F.embedding(ids.to(self.table.device), self.table)

    @torch.no_grad()
    def fold(self, rows: int = 8192) -> None:
        """Project the whole table once, so that a step only looks up a row. Done in place if the widths are equal."""
        if self.folded:
            return
        old, width = self.table.data, self.fc2.out_features
        new = old if old.shape[1] == width else old.new_empty(old.shape[0], width)
        for start in range(0, old.shape[0], rows):
            piece = old[start : start + rows].to(self.fc1.weight.device)
            new[start : start + rows] = self.fc2(F.silu(self.fc1(piece))).to(old.device)
        self.table = nn.Parameter(new, requires_grad=False)
        self.folded = True


class Cache(nn.Module, ABC):
    """Rotary tables for the maximum number of positions, and a store of keys and values for each layer.

    `table`: the block table of all slots if keys and values are in blocks; None if each slot has a contiguous row.
    """

    cos: Tensor
    sin: Tensor
    columns: Tensor
    layers: Sequence[LayerCache]
    table: Tensor | None

    def __init__(self, config: TalkerConfig, max_positions: int, like: Tensor) -> None:
        super().__init__()
        t = config.transformer
        self.config, self.max_positions = config, max_positions
        cos, sin = rotary_table(t.head_dim, t.rope_theta, max_positions, like.device, like.dtype)
        self.register_buffer("cos", cos, persistent=False)  # [max_positions, head_dim]
        self.register_buffer("sin", sin, persistent=False)
        columns = torch.arange(max_positions, device=like.device)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("table", None, persistent=False)

    @abstractmethod
    def stores(self, rows: BatchRows, positions: Tensor) -> list[Store]:
        """Return a batch's store for each layer: row b's positions [B, T] are those of slot rows.slots[b]."""

    @abstractmethod
    def grown(self, max_positions: int) -> Cache:
        """Return a cache of at least `max_positions` positions with the same contents; self if it is large enough."""


class TalkerCache(Cache):
    """Talker KV cache of all slots: keys and values of all layers in one tensor, one row per slot."""

    kv: Tensor
    layers: Sequence[SlotCache]

    def __init__(self, config: TalkerConfig, slots: int, max_positions: int, like: Tensor) -> None:
        super().__init__(config, max_positions, like)
        t = config.transformer
        kv = like.new_zeros(t.layers, 2, slots, t.kv_heads, max_positions, t.head_dim)
        self.register_buffer("kv", kv, persistent=False)
        self.layers = module_list(SlotCache(keys, values) for keys, values in kv)  # views

    def stores(self, rows: BatchRows, positions: Tensor) -> list[Store]:
        return [partial(kept.update, slots=rows.slots, columns=positions, length=rows.length) for kept in self.layers]

    @torch.no_grad()
    def grown(self, max_positions: int) -> TalkerCache:
        if max_positions <= self.max_positions:
            return self
        longer = TalkerCache(self.config, self.kv.shape[2], max_positions, self.kv)
        longer.kv[:, :, :, :, : self.max_positions] = self.kv
        return longer

    @torch.no_grad()
    def prefix(self, slot: int, positions: int) -> Tensor:
        """Copy a slot's first positions: [layers, 2, kv_heads, positions, head_dim]."""
        return self.kv[:, :, slot, :, :positions].clone()

    @torch.no_grad()
    def put_prefix(self, slot: int, prefix: Tensor) -> None:
        """Write to a slot the first positions that `prefix` copied from another: computed once, reused many times."""
        self.kv[:, :, slot, :, : prefix.shape[3]] = prefix


class Talker(nn.Module):
    """Decoder layers over text and code embeddings. No call synchronises with the host."""

    def __init__(self, config: TalkerConfig, predictor_vocab_size: int) -> None:
        super().__init__()
        self.config = config
        hidden = config.transformer.hidden_size
        self.text = TextEmbedding(config)
        self.codes = FrameEmbedding(config.vocab_size, predictor_vocab_size, config.code_groups, hidden)
        self.layers = module_list(DecoderLayer(config.transformer, True) for _ in range(config.transformer.layers))
        self.norm = nn.RMSNorm(hidden, eps=config.transformer.norm_eps)
        self.head = nn.Linear(hidden, config.vocab_size, bias=False)

    def allocate(self, slots: int, max_positions: int) -> TalkerCache:
        """Allocate static buffers for `slots` sequences of up to `max_positions` positions, on this model's device."""
        assert max_positions <= self.config.max_positions, max_positions
        return TalkerCache(self.config, slots, max_positions, self.head.weight)

    def forward(self, inputs: Tensor, cache: Cache, rows: BatchRows) -> Tensor:
        """Return the final hidden states of inputs [B, T, H] → [B, T, H]; keys and values are stored in the cache.

        A row attends to its own slot, up to its own position only, so anything after that (padding, an older sequence)
        has no effect.
        """
        assert inputs.shape[1] <= rows.length <= cache.max_positions, (inputs.shape, rows.length, cache.max_positions)
        t = self.config.transformer
        positions = rows.starts.unsqueeze(1) + cache.columns[: inputs.shape[1]]  # [B, T]
        tables = cache.cos[positions], cache.sin[positions]  # [B, T, head_dim]
        visible = cache.columns[: rows.length] <= positions.unsqueeze(-1)  # [B, T, length]
        bias = visible_bias(visible, t.heads // t.kv_heads, inputs.dtype)
        x = inputs
        for layer, store in zip(self.layers, cache.stores(rows, positions), strict=True):
            x = layer(x, tables, bias, store)
        return self.norm(x)

    def step(self, inputs: Tensor, cache: Cache, rows: BatchRows) -> tuple[Tensor, Tensor]:
        """Run one position of B sequences: inputs [B, H] → hidden [B, H], logits [B, V]."""
        hidden = self(inputs.unsqueeze(1), cache, rows).squeeze(1)
        return hidden, self.head(hidden)
