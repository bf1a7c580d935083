"""The talker with flash-attn, which reads paged blocks directly: unpadded prompts, and frames of any length.

The fused kernels take precedence where they run: they need five launches per layer, while attention alone needs several
here. This path is for users who prefer flash-attn, or who have it but no working Triton.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint.gpu_probe import AMPERE
from ..model.attention import Attention, Rotary
from ..model.layers import DecoderLayer
from ..model.talker import BatchRows
from ..paged.kv_cache import BlockLayer
from ..paged.runner import PagedRunner
from ..runtime.decode_step import EagerDecodeStep
from ..runtime.prefill import PrefillChunk
from ..runtime.strategies import Strategies
from ..runtime.transfer import upload
from .verify import LEAST_COSINE, UnusableKernels

BLOCK_MULTIPLE = 256
"""flash-attn requires block sizes that are multiples of this many positions."""
CHECKED_POSITIONS = 300  # more than one block


@dataclass(frozen=True, slots=True)
class FlashAttention:
    """The two functions of flash-attn 2, under their original names."""

    flash_attn_varlen_func: Callable[..., Any]
    flash_attn_with_kvcache: Callable[..., Any]

    @classmethod
    def load(cls) -> FlashAttention:
        """Import the functions. Raise ImportError if flash-attn is missing."""
        import flash_attn

        return cls(flash_attn.flash_attn_varlen_func, flash_attn.flash_attn_with_kvcache)


def obstacle(runner: PagedRunner) -> str | None:
    """Return the reason why flash-attn cannot be used with this runner, or None; does not run anything."""
    weight = runner.model.talker.head.weight
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    if weight.device.type != "cuda" or torch.cuda.get_device_capability(weight.device) < AMPERE:
        return "flash-attn requires an Ampere GPU (RTX 30) or newer"
    if weight.dtype == torch.float32:
        return "flash-attn requires 16-bit weights"
    if runner.cache.block_positions % BLOCK_MULTIPLE:
        return f"flash-attn requires a block size that is a multiple of {BLOCK_MULTIPLE} positions"
    return None


@dataclass(frozen=True, slots=True)
class _AttentionPass:
    """The attention of one pass; `mix` takes queries [B, T, heads, d] and a layer's blocks."""

    rotary: Rotary
    places: tuple[Tensor, Tensor]
    mix: Callable[[Tensor, Tensor, Tensor], Tensor]


class FlashTalker:
    """A runner's talker layers, with flash-attn between their matrix products."""

    def __init__(self, runner: PagedRunner, attention: FlashAttention) -> None:
        self._talker, self._cache = runner.model.talker, runner.cache
        self._attention = attention

    def strategies(self, runner: PagedRunner, base: Strategies) -> Strategies:
        """Return `base` with prefill and decode step replaced by this talker's."""
        state = runner.state

        def talk(inputs: Tensor, slots: Tensor, length: int) -> tuple[Tensor, Tensor]:
            return self.step(inputs, BatchRows(slots, state.next[slots], length))

        return replace(
            base, step=EagerDecodeStep(runner.model, state, talk=talk, reads_length=False), read_chunks=self.read
        )

    def step(self, inputs: Tensor, rows: BatchRows) -> tuple[Tensor, Tensor]:
        """Run `Talker.step` with flash-attn; attention reads up to each row's position, ignoring `rows.length`."""
        starts = rows.starts.unsqueeze(1)  # [B, 1]
        seen, table = (rows.starts + 1).int(), self._cache.table[rows.slots]

        def mix(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self._attention.flash_attn_with_kvcache(
                query, keys, values, cache_seqlens=seen, block_table=table, causal=True
            )

        hidden = self._run(inputs.unsqueeze(1), starts, self._cache.places(rows.slots, starts), mix).squeeze(1)
        return hidden, self._talker.head(hidden)

    def read(self, pieces: Sequence[PrefillChunk]) -> None:
        """Prefill concatenated prompt chunks, each attending to its own past."""
        device = self._cache.table.device
        lengths = [len(piece.inputs) for piece in pieces]
        ends = [piece.start + length for piece, length in zip(pieces, lengths, strict=True)]
        positions = [range(piece.start, end) for piece, end in zip(pieces, ends, strict=True)]
        slots = upload([piece.slot for piece in pieces], device)
        owners = upload([piece.slot for piece in pieces for _ in range(len(piece.inputs))], device)
        index = upload([position for each in positions for position in each], device).unsqueeze(1)  # [total, 1]
        blocks, offsets = self._cache.places(owners, index)
        table = self._cache.table[slots]
        heads, tails = (upload(_edges(sizes), device, torch.int32) for sizes in (lengths, ends))

        def mix(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self._attention.flash_attn_varlen_func(
                query.squeeze(0), keys, values, heads, tails, max(lengths), max(ends), causal=True, block_table=table
            ).unsqueeze(0)

        inputs = torch.cat([piece.inputs for piece in pieces]).unsqueeze(0)  # [1, total, H]
        self._run(inputs, index.T, (blocks.T, offsets.T), mix)

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        places: tuple[Tensor, Tensor],
        mix: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Map x [B, T, H] at positions [B, T] through all layers and the final norm."""
        how = _AttentionPass((self._cache.cos[positions], self._cache.sin[positions]), places, mix)
        for layer, kept in zip(self._talker.layers, self._cache.layers, strict=True):
            x = _layer(layer, x, kept, how)
        return self._talker.norm(x)


def _layer(layer: DecoderLayer, x: Tensor, kept: BlockLayer, how: _AttentionPass) -> Tensor:
    attention: Attention = layer.attention
    query, key, value = attention.project(layer.attention_norm(x), how.rotary)
    kept.write(key, value, how.places)
    # [blocks, block positions, kv_heads, d], flash-attn's layout; a transposed view is enough because it uses strides
    mixed = how.mix(query.contiguous(), kept.keys.transpose(1, 2), kept.values.transpose(1, 2))
    x = x + attention.out(mixed.flatten(2))
    return x + layer.mlp(layer.mlp_norm(x))


def _edges(sizes: Sequence[int]) -> list[int]:
    """Return the start offsets of concatenated chunks, followed by the end of the last."""
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return edges


@torch.inference_mode()
def cosine(runner: PagedRunner, flash: FlashTalker) -> float:
    """Return the smallest cosine similarity to eager torch over a prompt and three steps; uses the spare slot."""
    talker, cache, spare = runner.model.talker, runner.cache, runner.slots
    count = min(CHECKED_POSITIONS, runner.max_positions - 3)
    noise = torch.Generator(runner.device).manual_seed(0)
    width = talker.head.weight.shape[1]
    inputs = torch.randn(count + 3, width, generator=noise, device=runner.device).to(talker.head.weight.dtype)
    slots = torch.full((1,), spare, device=runner.device)
    with _borrowed_blocks(runner, spare, count + 3):
        flash.read([PrefillChunk(inputs[:count], spare, 0)])
        ours = [
            flash.step(inputs[at : at + 1], BatchRows(slots, torch.full_like(slots, at), count + 3))[0]
            for at in range(count, count + 3)
        ]
        rows = BatchRows(slots, torch.zeros_like(slots), count + 3)
        theirs = talker(inputs[None], cache, rows)[0, count:]
    found = F.cosine_similarity(torch.cat(ours).float(), theirs.float(), dim=-1).min()
    return found.nan_to_num(0).item()


@contextmanager
def _borrowed_blocks(runner: PagedRunner, slot: int, positions: int) -> Iterator[None]:
    """Lend blocks to a slot without a sequence."""
    blocks = runner.paging.pool.allocate(runner.paging.count(positions))
    runner.cache.set_rows({slot: blocks})
    try:
        yield
    finally:
        runner.cache.set_rows({slot: []})
        runner.paging.pool.free(blocks)


def flash_strategies(runner: PagedRunner, base: Strategies) -> Strategies:
    """Return `base` with prefill and decode step through flash-attn, verified. Raise UnusableKernels on failure."""
    if reason := obstacle(runner):
        raise UnusableKernels(reason)
    flash = FlashTalker(runner, FlashAttention.load())
    if (found := cosine(runner, flash)) < LEAST_COSINE:
        raise UnusableKernels(f"self-check failed (cosine {found:.4f}, at least {LEAST_COSINE} required)")
    return flash.strategies(runner, base)
