"""Attention of one position over a slot's past: q/k norm and rotation, cache update, and weighted sum."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .launch import Launch, enqueue

FEW = 16
"""Maximum number of past positions in the code predictor: they are loaded in one block, before the input is ready."""


@triton.jit
def _normed_rotated(parts, gain, head, d, half_turned, cos, sin, eps, D: tl.constexpr):
    """Apply RMS norm and rotation to one head's vector [D]; `half_turned` is d with its halves swapped."""
    v = tl.load(parts + head * D + d).to(tl.float32)
    turned = tl.load(parts + head * D + half_turned).to(tl.float32)
    scale = tl.rsqrt(tl.sum(v * v, 0) / D + eps)
    v *= scale * tl.load(gain + head * D + d).to(tl.float32)
    turned *= scale * tl.load(gain + head * D + half_turned).to(tl.float32)
    return v * cos + turned * sin


@triton.jit
def _group_normed_rotated(parts, gain, heads, d, half_turned, cos, sin, eps, D: tl.constexpr):
    """As `_normed_rotated`, for the heads [ROWS, 1] of a group: [ROWS, D]."""
    v = tl.load(parts + heads * D + d[None, :]).to(tl.float32)
    turned = tl.load(parts + heads * D + half_turned[None, :]).to(tl.float32)
    scale = tl.rsqrt(tl.sum(v * v, 1) / D + eps)[:, None]
    v *= scale * tl.load(gain + heads * D + d[None, :]).to(tl.float32)
    turned *= scale * tl.load(gain + heads * D + half_turned[None, :]).to(tl.float32)
    return v * cos[None, :] + turned * sin[None, :]


@triton.jit
def _offsets(t, inside, blocks, block_stride, D: tl.constexpr, PAGE: tl.constexpr):
    """Return the offsets of positions t from the start of a head: contiguous, or PAGE per block of a block table."""
    places = t * D
    if PAGE:
        t = t.to(tl.uint32)
        places = tl.load(blocks + t // PAGE, inside, 0).to(tl.int64) * block_stride + t % PAGE * D
    return places


@triton.jit
def _mixed_in(q, k, v, inside, scale, top, total, mixed):
    """Update the online softmax with k and v [T, D]: maximum score and sum [ROWS], weighted sum [ROWS, D]."""
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [ROWS, T]
    score = tl.where(inside[None, :], score, float("-inf"))
    higher = tl.maximum(top, tl.max(score, 1))
    share = tl.exp(score - higher[:, None])
    fade = tl.exp(top - higher)
    mixed = tl.dot(share.to(v.dtype), v, mixed * fade[:, None], input_precision="ieee")
    return higher, total * fade + tl.sum(share, 1), mixed


@triton.jit
def _past_mixed_in(
    q, keys, values, blocks, position, block_stride, scale, top, total, mixed,
    D: tl.constexpr, PAGE: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """As `_mixed_in`, for all positions before `position`, loading BLOCK_T at a time from the cache."""
    d = tl.arange(0, D)
    for start in tl.range(0, position, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        inside = (t < position)[:, None]
        places = _offsets(t, t < position, blocks, block_stride, D, PAGE)
        k = tl.load(keys + places[:, None] + d[None, :], inside, 0.0)
        v = tl.load(values + places[:, None] + d[None, :], inside, 0.0)
        top, total, mixed = _mixed_in(q, k, v, t < position, scale, top, total, mixed)
    return top, total, mixed


@triton.jit
def _past_ahead(keys, values, base, t, start, D: tl.constexpr):
    """Load k and v [T, D] of the positions t before `start`, bypassing the L1 cache."""
    places = base + t[:, None] * D + tl.arange(0, D)[None, :]
    k = tl.load(keys + places, (t < start)[:, None], 0.0, cache_modifier=".cg")
    v = tl.load(values + places, (t < start)[:, None], 0.0, cache_modifier=".cg")
    return k, v


@triton.jit
def _attend(
    qkv, gain, cos_table, sin_table, keys, values, slots, positions, table, out, slot_stride, head_stride, table_stride,
    eps, scale, START: tl.constexpr, STEPS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
    D: tl.constexpr, PAGE: tl.constexpr, BLOCK_T: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    GROUP: tl.constexpr = HEADS // KV_HEADS
    ROWS: tl.constexpr = GROUP if GROUP > 16 else 16  # tensor cores need 16; extra rows repeat a head
    batch, kv_head = tl.program_id(0), tl.program_id(1)
    d, g = tl.arange(0, D), tl.arange(0, ROWS)
    half_turned = (d + D // 2) % D
    if AHEAD:
        # The same layer wrote the past a few attentions ago; only the latest of those may still run: the kernels
        # between two attentions start once the first has waited for all its predecessors and launched its dependents.
        past_t = tl.arange(0, BLOCK_T)
        past_base = batch.to(tl.int64) * slot_stride + kv_head * head_stride
        past_k, past_v = _past_ahead(keys, values, past_base, past_t, START, D)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()  # not earlier, so that no kernel runs ahead of the stream by more than one layer
    slot = tl.load(slots + batch) if START < 0 else batch.to(tl.int64)
    past = tl.load(positions + slot) if START < 0 else START
    blocks = table + slot * table_stride
    base = kv_head * head_stride if PAGE else slot * slot_stride + kv_head * head_stride
    for step in tl.static_range(STEPS):
        position = past + step
        parts = qkv + (batch * STEPS + step) * (HEADS + 2 * KV_HEADS) * D
        cos = tl.load(cos_table + position * D + d).to(tl.float32)
        sin = tl.load(sin_table + position * D + d).to(tl.float32)
        key = _normed_rotated(parts, gain, HEADS + kv_head, d, half_turned, cos, sin, eps, D).to(keys.dtype.element_ty)
        value = tl.load(parts + (HEADS + KV_HEADS + kv_head) * D + d)
        place = _offsets(position, position >= 0, blocks, slot_stride, D, PAGE)
        tl.store(keys + base + place + d, key)
        tl.store(values + base + place + d, value)
        # All heads of the group side by side: [ROWS, D].
        heads = (kv_head * GROUP + tl.minimum(g, GROUP - 1))[:, None]
        q = _group_normed_rotated(parts, gain, heads, d, half_turned, cos, sin, eps, D).to(keys.dtype.element_ty)
        # The new position is taken from registers, the past from the cache.
        top = tl.sum(q.to(tl.float32) * key.to(tl.float32)[None, :], 1) * scale  # [ROWS]
        total = tl.full((ROWS,), 1.0, tl.float32)
        mixed = tl.zeros((ROWS, D), tl.float32) + value.to(tl.float32)[None, :]
        if AHEAD:
            top, total, mixed = _mixed_in(q, past_k, past_v, past_t < START, scale, top, total, mixed)
        else:
            tl.debug_barrier()  # an earlier step of this program wrote a column that is read here
            top, total, mixed = _past_mixed_in(
                q, keys + base, values + base, blocks, position, slot_stride, scale, top, total, mixed, D, PAGE, BLOCK_T
            )
        target = out + (batch * STEPS + step) * HEADS * D + heads * D + d[None, :]
        tl.store(target, (mixed / total[:, None]).to(out.dtype.element_ty), (g < GROUP)[:, None])


@dataclass(frozen=True, slots=True)
class Heads:
    """Dimensions of an attention layer."""

    heads: int
    kv_heads: int
    head_dim: int
    eps: float


@dataclass(frozen=True, slots=True)
class Past:
    """A layer's keys and values, [slots, kv_heads, positions, head_dim] each, and rotary tables [positions, d].

    With `slots` [B] and `positions` [slots], each row's slot and position are read on the device; otherwise, row b uses
    row b of the cache. If `table` int32 [slots, n] is also given, keys and values are in blocks, [blocks, kv_heads,
    block positions, head_dim], and the table's rows list each slot's blocks.
    """

    keys: Tensor
    values: Tensor
    cos: Tensor
    sin: Tensor
    slots: Tensor | None = None
    positions: Tensor | None = None
    table: Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttendStep:
    """One layer's attention, between its two matrix products. `gain` is [heads + kv_heads, head_dim]."""

    sizes: Heads
    gain: Tensor
    launch: Launch

    def __call__(self, qkv: Tensor, past: Past, out: Tensor, start: int = -1, steps: int = 1) -> Tensor:
        """Compute qkv [B · steps, (heads + 2 · kv_heads) · d] → out [B · steps, heads · d].

        The keys and values of each row are written at its position; without slots, these are `start` and the following
        positions.
        """
        sizes, keys = self.sizes, past.keys
        assert keys.stride() == past.values.stride(), (keys.stride(), past.values.stride())
        assert keys.stride(2) == sizes.head_dim, keys.stride()
        nothing, table = past.cos, past.table
        enqueue(
            _attend, (qkv.shape[0] // steps, sizes.kv_heads),
            qkv, self.gain, past.cos, past.sin, keys, past.values, nothing if past.slots is None else past.slots,
            nothing if past.positions is None else past.positions, nothing if table is None else table, out,
            keys.stride(0), keys.stride(1), 0 if table is None else table.stride(0), sizes.eps, sizes.head_dim**-0.5,
            START=start, STEPS=steps, HEADS=sizes.heads, KV_HEADS=sizes.kv_heads, D=sizes.head_dim,
            PAGE=0 if table is None else keys.shape[2], BLOCK_T=FEW if start >= 0 else 128,
            AHEAD=0 < start <= FEW and steps == 1, num_warps=4, num_stages=2, **self.launch.options,
        )  # fmt: skip
        return out
