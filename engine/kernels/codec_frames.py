"""The codec decoder's kernels other than matrix products: step begin, ring attention, depthwise convolution."""

from __future__ import annotations

import triton
import triton.language as tl

from .codec_conv import keep_history


@triton.jit(do_not_specialize=["ring"])
def begin_step(
    codes, starts, slots, frames, turns, table, frequencies, halves, positions, cos, sin, latents, ring,
    STEPS: tl.constexpr, GROUPS: tl.constexpr, CODES: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr,
    STEPS_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr, PAIRS_BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row: look up its codes, compute its rotary angles, and save and advance its stream position."""
    row = tl.program_id(0)
    slot = tl.load(slots + row)
    position, turn = tl.load(frames + slot), tl.load(turns + slot)
    step = tl.arange(0, STEPS_BLOCK)
    real = step < STEPS
    line = row * STEPS + step
    _look_up(
        codes + (slot * ring + (tl.load(starts + row) + step) % ring) * GROUPS, table, latents, line, real,
        GROUPS, CODES, WIDTH, STEPS_BLOCK, WIDTH_BLOCK,
    )  # fmt: skip
    pair = tl.arange(0, PAIRS_BLOCK)
    # In float64 turns: the counter never wraps, and float32 angles would be off by whole radians after days.
    rounds = (position + step).to(tl.float64)[:, None] * tl.load(frequencies + pair, mask=pair < PAIRS)[None, :]
    angle = ((rounds - tl.floor(rounds)) * 6.283185307179586).to(tl.float32)
    place, inside = line[:, None] * PAIRS + pair[None, :], real[:, None] & (pair < PAIRS)[None, :]
    tl.store(cos + place, tl.cos(angle), mask=inside)
    tl.store(sin + place, tl.sin(angle), mask=inside)
    tl.store(halves + row, slot * 2 + turn)
    tl.store(positions + row, position)
    tl.debug_barrier()  # wait until every warp has read the counters
    tl.store(frames + slot, position + STEPS)
    tl.store(turns + slot, 1 - turn)


@triton.jit
def _look_up(
    codes, table, latents, line, real,
    GROUPS: tl.constexpr, CODES: tl.constexpr, WIDTH: tl.constexpr,
    STEPS_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute latents[line] = sum of the table's rows over all groups."""
    lane = tl.arange(0, WIDTH_BLOCK)
    total = tl.zeros((STEPS_BLOCK, WIDTH_BLOCK), tl.float32)
    for group in tl.static_range(GROUPS):
        code = tl.load(codes + group, mask=real, other=0)
        code = tl.minimum(tl.maximum(code, 0), CODES - 1)  # the frame after the last contains a special token
        entry = table + (group * CODES + code)[:, None] * WIDTH + lane[None, :]
        total += tl.load(entry, mask=(lane < WIDTH)[None, :], other=0.0)
    place = line[:, None] * WIDTH + lane[None, :]
    tl.store(latents + place, total.to(latents.dtype.element_ty), mask=real[:, None] & (lane < WIDTH)[None, :])


@triton.jit
def _rotated(low, high, place, inside, cos, sin):
    """Rotate rows, given as two halves, by their angles; return both halves in float32."""
    low = tl.load(low + place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(high + place, mask=inside, other=0.0).to(tl.float32)
    return low * cos - high * sin, high * cos + low * sin


@triton.jit
def _scores(q1, q2, k1, k2, seen, scale):
    """Return the scaled products of queries and keys, given as halves; -inf where a key is masked."""
    score = tl.dot(q1, tl.trans(k1), input_precision="tf32") + tl.dot(q2, tl.trans(k2), input_precision="tf32")
    return tl.where(seen, score * scale, float("-inf"))


@triton.jit
def _loaded_rotated(qkv, cos, sin, line, pair, head, mask, HEADS: tl.constexpr, SIZE: tl.constexpr):
    """Load and rotate the new frames' queries and keys of one head, as halves."""
    table = line[:, None] * (SIZE // 2) + pair[None, :]
    c = tl.load(cos + table, mask=mask, other=0.0)
    s = tl.load(sin + table, mask=mask, other=0.0)
    start = qkv + line[:, None] * (3 * HEADS * SIZE) + head * SIZE
    q1, q2 = _rotated(start, start + SIZE // 2, pair[None, :], mask, c, s)
    start += HEADS * SIZE
    k1, k2 = _rotated(start, start + SIZE // 2, pair[None, :], mask, c, s)
    return q1, q2, k1, k2


@triton.jit(do_not_specialize=["steps"])
def attend_ring(
    qkv, keys, values, slots, positions, cos, sin, out, slot_stride, scale, steps,
    HEADS: tl.constexpr, SIZE: tl.constexpr, RING: tl.constexpr, WINDOW: tl.constexpr,
    STEPS_BLOCK: tl.constexpr, RING_BLOCK: tl.constexpr, PAIRS_BLOCK: tl.constexpr, SIZE_BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row and head: rotate, attend to the ring and the new frames, then write these to the ring.

    New frames are written to places further back than any query sees, so reads need not be ordered before writes.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    slot, position = tl.load(slots + row), tl.load(positions + row)
    dtype: tl.constexpr = keys.dtype.element_ty
    step, pair, lane = tl.arange(0, STEPS_BLOCK), tl.arange(0, PAIRS_BLOCK), tl.arange(0, SIZE_BLOCK)
    place_in_ring = tl.arange(0, RING_BLOCK)
    line = row * steps + step
    real = (step < steps)[:, None]
    paired, laned = (pair < SIZE // 2)[None, :], (lane < SIZE)[None, :]

    q1, q2, k1, k2 = _loaded_rotated(qkv, cos, sin, line, pair, head, real & paired, HEADS, SIZE)
    q1, q2, k1, k2 = q1.to(dtype), q2.to(dtype), k1.to(dtype), k2.to(dtype)
    v_start = qkv + line[:, None] * (3 * HEADS * SIZE) + (2 * HEADS + head) * SIZE
    v = tl.load(v_start + lane[None, :], mask=real & laned, other=0.0)

    keys += slot * slot_stride + head * (RING * SIZE)
    values += slot * slot_stride + head * (RING * SIZE)
    old, known = place_in_ring[:, None] * SIZE, (place_in_ring < RING)[:, None]
    o1 = tl.load(keys + old + pair[None, :], mask=known & paired, other=0.0)
    o2 = tl.load(keys + old + SIZE // 2 + pair[None, :], mask=known & paired, other=0.0)
    ov = tl.load(values + old + lane[None, :], mask=known & laned, other=0.0)

    last = position - 1
    held = last - (last - place_in_ring + RING) % RING  # frame in each place; adding RING keeps the dividend positive
    seen = (
        (held >= 0)[None, :] & (held[None, :] > (position + step)[:, None] - WINDOW) & (place_in_ring < RING)[None, :]
    )
    ago = step[:, None] - step[None, :]
    before = _scores(q1, q2, o1, o2, seen, scale)
    now = _scores(q1, q2, k1, k2, (ago >= 0) & (ago < WINDOW), scale)
    top = tl.maximum(tl.max(before, 1), tl.max(now, 1))[:, None]
    before, now = tl.exp(before - top), tl.exp(now - top)
    mixed = tl.dot(before.to(dtype), ov, input_precision="tf32")
    mixed = tl.dot(now.to(dtype), v, mixed, input_precision="tf32")
    mixed /= (tl.sum(before, 1) + tl.sum(now, 1))[:, None]
    tl.store(out + line[:, None] * (HEADS * SIZE) + head * SIZE + lane[None, :], mixed.to(dtype), mask=real & laned)

    new = ((position + step) % RING)[:, None] * SIZE
    tl.store(keys + new + pair[None, :], k1, mask=real & paired)
    tl.store(keys + new + SIZE // 2 + pair[None, :], k2, mask=real & paired)
    tl.store(values + new + lane[None, :], v, mask=real & laned)


@triton.jit(do_not_specialize=["rows", "steps"])
def mix_depthwise(
    x, history, halves, weight, bias, out, rows, steps, floats, eps,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per output row: depthwise causal convolution and layer norm, without the norm's weight and bias."""
    row = tl.program_id(0)
    if row >= rows:
        keep_history(x, history, halves, row - rows, steps, floats, TAPS - 1, CHANNELS)
        return
    time = row % steps
    channel = tl.arange(0, BLOCK)
    within = channel < CHANNELS
    past = history + tl.load(halves + row // steps) * floats + (time + TAPS - 1) * CHANNELS
    here = x + row * CHANNELS
    y = tl.load(bias + channel, mask=within, other=0.0)
    for tap in tl.static_range(TAPS):
        ago = TAPS - 1 - tap
        start = tl.where(time >= ago, here - ago * CHANNELS, past - ago * CHANNELS)
        value = tl.load(start + channel, mask=within, other=0.0).to(tl.float32)
        y += value * tl.load(weight + tap * CHANNELS + channel, mask=within, other=0.0)
    y = tl.where(within, y - tl.sum(y, 0) / CHANNELS, 0.0)
    y *= tl.rsqrt(tl.sum(y * y, 0) / CHANNELS + eps)
    tl.store(out + row * CHANNELS + channel, y.to(out.dtype.element_ty), mask=within)
