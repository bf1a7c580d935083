"""The talker's keys and values in blocks, and the table that maps slots to blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..model.attention import LayerCache, Store
from ..model.config import TalkerConfig
from ..model.layers import module_list
from ..model.talker import BatchRows, Cache
from ..runtime.transfer import send, upload


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Number of allocatable blocks, and positions per block. Block 0 is additional and receives padding."""

    blocks: int
    block_positions: int

    @property
    def positions(self) -> int:
        return self.blocks * self.block_positions


class BlockLayer(LayerCache):
    """Keys and values of one layer, each [blocks, kv_heads, block positions, head_dim]."""

    def update(
        self, key: Tensor, value: Tensor, places: tuple[Tensor, Tensor], seen: Tensor, length: int
    ) -> tuple[Tensor, Tensor]:
        """Write key and value [B, T, kv_heads, d] at places (block, offset) [B, T] and gather `length` positions.

        `seen` [B, n] are the blocks to gather from.
        """
        self.write(key, value, places)
        return self._gathered(self.keys, seen, length), self._gathered(self.values, seen, length)

    def write(self, key: Tensor, value: Tensor, places: tuple[Tensor, Tensor]) -> None:
        """Write as `update` does, for attention kernels that read the blocks directly."""
        blocks, offsets = places
        self.keys[blocks, :, offsets] = key
        self.values[blocks, :, offsets] = value

    def _gathered(self, numbers: Tensor, seen: Tensor, length: int) -> Tensor:
        past = numbers[seen].transpose(1, 2)  # [B, kv_heads, n, block positions, d]
        return past.flatten(2, 3)[:, :, :length]


class PagedCache(Cache):
    """All blocks of all layers in one tensor, and one row of block numbers per slot, on both device and host."""

    pool: Tensor
    table: Tensor
    layers: Sequence[BlockLayer]

    def __init__(self, config: TalkerConfig, slots: int, max_positions: int, size: PoolSize, like: Tensor) -> None:
        super().__init__(config, max_positions, like)
        assert max_positions <= size.positions, (max_positions, size)
        t, self.block_positions = config.transformer, size.block_positions
        pool = like.new_zeros(t.layers, 2, size.blocks + 1, t.kv_heads, size.block_positions, t.head_dim)
        self.register_buffer("pool", pool, persistent=False)
        self.layers = module_list(BlockLayer(keys, values) for keys, values in pool)  # views
        columns = -(-max_positions // size.block_positions)
        self._rows = torch.zeros(slots, columns, dtype=torch.int32)
        self.table = self._rows.to(like.device, copy=True)

    def set_rows(self, rows: dict[int, Sequence[int]]) -> None:
        """Assign blocks to slots, effective for all work launched from now on."""
        if not rows:
            return
        for slot, blocks in rows.items():
            self._rows[slot, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
            self._rows[slot, len(blocks) :] = 0
        slots = torch.tensor(list(rows))
        device = self.table.device
        self.table.index_copy_(0, send(slots, device), send(self._rows[slots], device))

    def places(self, slots: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return block and offset of positions [B, T] of slots [B]."""
        columns = positions // self.block_positions
        blocks = self.table[slots.unsqueeze(1), columns].long()
        return blocks, positions % self.block_positions

    def stores(self, rows: BatchRows, positions: Tensor) -> list[Store]:
        columns = -(-rows.length // self.block_positions)
        places, seen = self.places(rows.slots, positions), self.table[rows.slots, :columns].long()
        return [partial(kept.update, places=places, seen=seen, length=rows.length) for kept in self.layers]

    def grown(self, max_positions: int) -> PagedCache:
        assert max_positions <= self.max_positions, (max_positions, self.max_positions)  # sized for the longest slot
        return self

    # --- contents -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def read(self, blocks: Sequence[int]) -> Tensor:
        """Copy blocks to the host asynchronously: [layers, 2, n, kv_heads, block positions, head_dim]."""
        index = upload(blocks, self.pool.device)
        shape = (*self.pool.shape[:2], len(blocks), *self.pool.shape[3:])
        host = torch.empty(shape, dtype=self.pool.dtype, pin_memory=self.pool.is_cuda)
        for kept, layer in zip(host, self.pool, strict=True):  # by layer, to use little device memory
            kept.copy_(layer.index_select(1, index), non_blocking=True)
        return host

    @torch.no_grad()
    def write(self, blocks: Sequence[int], contents: Tensor) -> None:
        """Write what `read` returned to as many blocks, or to the first of them."""
        index = upload(blocks[: contents.shape[2]], self.pool.device)
        for kept, layer in zip(contents, self.pool, strict=True):
            layer.index_copy_(1, index, send(kept, layer.device))

    @torch.no_grad()
    def tail(self, block: int, positions: int) -> Tensor:
        """Return a copy of the first positions of a block: [layers, 2, kv_heads, positions, head_dim]."""
        return self.pool[:, :, block, :, :positions].clone()

    @torch.no_grad()
    def put_tail(self, block: int, tail: Tensor) -> None:
        """Write to a block the first positions that `tail` copied from another."""
        self.pool[:, :, block, :, : tail.shape[3]] = tail
