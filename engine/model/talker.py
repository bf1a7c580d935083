"""The talker: reads text, writes code group 0 of every frame, and keeps its past in slots."""

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
    """The positions of a batch: row b is slot slots[b], its first input at position starts[b].

    `length` is how many cache positions the attention reads, static so that a graph can be captured for it; every
    position written must be below it.
    """

    slots: Tensor  # [B] int64
    starts: Tensor  # [B] int64
    length: int


class TextEmbedding(nn.Module):
    """Text tokens as talker inputs. The big table may be in host memory while the projection is on the GPU."""

    table: nn.Parameter

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        width = config.text_hidden_size
        self.table = nn.Parameter(torch.empty(config.text_vocab_size, width))
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, config.transformer.hidden_size)
        self.folded = False

    def forward(self, text: Tensor) -> Tensor:
        """ids int64 [...] on any device, or their `rows`, → [..., H] on the projection's device."""
        rows = (text if text.is_floating_point() else self.rows(text)).to(self.fc1.weight.device)
        return rows if self.folded else self.fc2(F.silu(self.fc1(rows)))

    def rows(self, ids: Tensor) -> Tensor:
        """What the table holds for ids [...]: [..., width] on the device of the table."""
        return F.embedding(ids.to(self.table.device), self.table)

    @torch.no_grad()
    def fold(self, rows: int = 8192) -> None:
        """Project the whole table once, so that a step only looks a row up. In place where the widths are equal."""
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
    """Rotary tables of as many positions as a sequence may have, and a store of keys and values for each layer.

    `table`: the blocks of every slot if keys and values are stored in blocks; None if they are contiguous.
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
        """What keeps keys and values of a batch, layer by layer: row b's at positions [B, T] of slot rows.slots[b]."""

    @abstractmethod
    def grown(self, max_positions: int) -> Cache:
        """Return a cache of at least `max_positions` positions with the same contents: this one if it has as many."""


class TalkerCache(Cache):
    """What the talker remembers of every slot: keys and values of all layers in one tensor, a row for each slot."""

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
        """A copy of a slot's first positions: [layers, 2, kv_heads, positions, head_dim]."""
        return self.kv[:, :, slot, :, :positions].clone()

    @torch.no_grad()
    def put_prefix(self, slot: int, prefix: Tensor) -> None:
        """Copy into a slot the first positions that `prefix` took from another: computed once, used by many."""
        self.kv[:, :, slot, :, : prefix.shape[3]] = prefix


class Talker(nn.Module):
    """Decoder layers over text and code embeddings. All calls are free of host synchronisation."""

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
        """Static buffers for `slots` sequences of at most `max_positions` positions, on this model's device."""
        assert max_positions <= self.config.max_positions, max_positions
        return TalkerCache(self.config, slots, max_positions, self.head.weight)

    def forward(self, inputs: Tensor, cache: Cache, rows: BatchRows) -> Tensor:
        """Final hidden states of inputs [B, T, H] → [B, T, H], keys and values kept in the cache.

        A row sees its own slot up to its own position only, so what follows (padding, an older sequence) never
        matters.
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
        """One position for B sequences: inputs [B, H] → hidden [B, H], logits [B, V]."""
        hidden = self(inputs.unsqueeze(1), cache, rows).squeeze(1)
        return hidden, self.head(hidden)
