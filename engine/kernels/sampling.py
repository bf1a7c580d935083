"""Samples a code and computes the next input from it: `engine.runtime.sampler` with one program per row.

The noise is the same hash of (seed, sample, group, code), so both sample the same codes from the same scores.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# SplitMix64: the golden gamma and the two multipliers of its finaliser.
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_2 = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _mix(bits):
    bits = (bits ^ (bits >> 30)) * tl.full((), _MIX_1, tl.uint64)
    bits = (bits ^ (bits >> 27)) * tl.full((), _MIX_2, tl.uint64)
    return bits ^ (bits >> 31)


@triton.jit
def _noise(seed, sample, group, code):
    """Return Gumbel noise for the codes [V] of one row; seed and sample are int64 scalars."""
    golden = tl.full((), _GOLDEN, tl.uint64)
    key = _mix(_mix(seed.to(tl.uint64) + golden) + sample.to(tl.uint64))
    key = _mix(key + group.to(tl.uint64) * golden)
    bits = _mix(key + (code + 1).to(tl.uint64) * golden)
    uniform = (bits >> 41).to(tl.float32) * 2.0**-23 + 2.0**-24
    return -tl.log(-tl.log(uniform))


@triton.jit
def _ordered(score):
    """Map a float32 to an unsigned integer of the same order."""
    bits = score.to(tl.uint32, bitcast=True)
    return tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def _kth_key(keys, k, BITS: tl.constexpr):
    """Return the largest key reached by at least k `keys`, found bit by bit; their lower 32 - BITS bits are equal."""
    found = tl.zeros((), tl.uint32)
    for bit in tl.static_range(BITS):
        trial = found | tl.full((), 1 << (31 - bit), tl.uint32)
        reached = tl.sum((keys >= trial).to(tl.int32), 0)
        found = tl.where(reached >= k, trial, found)
    return found


@triton.jit
def _nucleus_key(keys, shares, top_p):
    """Return the smallest key such that strictly larger keys hold less than top_p of the mass `shares`."""
    found = tl.zeros((), tl.uint32)
    for bit in tl.static_range(32):
        # Keep the bit while the mass at or above the trial key is at least top_p.
        trial = found | tl.full((), 1 << (31 - bit), tl.uint32)
        above = tl.sum(tl.where(keys >= trial, shares, 0.0), 0)
        found = tl.where(above >= top_p, trial, found)
    return found


@triton.jit
def _pick(scores, noise, inside, draw, code, VOCAB: tl.constexpr, BITS: tl.constexpr):
    """Sample one code of a row. `draw` points to temperature, top_k, top_p, greedy."""
    temperature, top_p = tl.load(draw), tl.load(draw + 2)
    wanted = tl.load(draw + 1).to(tl.int32)
    k = tl.where((wanted > 0) & (wanted < VOCAB), wanted, VOCAB)
    keys = tl.where(inside, _ordered(scores), 0)
    kept = inside & (keys >= _kth_key(keys, k, BITS))
    scaled = scores / temperature
    if top_p < 1.0:
        shares = tl.where(kept, tl.exp(scaled - tl.max(tl.where(kept, scaled, float("-inf")), 0)), 0.0)
        shares = shares / tl.sum(shares, 0)
        kept = kept & (keys >= _nucleus_key(tl.where(kept, keys, 0), shares, top_p))
    drawn = tl.where(kept, scaled + noise, float("-inf"))
    greedy = tl.where(inside, scores, float("-inf"))
    final = tl.where(tl.load(draw + 3) > 0, greedy, drawn)
    return tl.argmax(final, 0).to(tl.int64)


@triton.jit
def draw_talker(
    logits, slots, active, draws, penalties, windows, min_news, seeds, samples, counts, ring, codes,
    table, table_row, VOCAB: tl.constexpr, BLOCK: tl.constexpr, EOS: tl.constexpr, SILENT: tl.constexpr,
    RING: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Sample group 0 of row b from logits [B, VOCAB] into codes [B, GROUPS], and record it where active.

    Its embedding, a row of table [·, WIDTH], is copied to table_row [2 · b + 1].
    """
    row = tl.program_id(0)
    code = tl.arange(0, BLOCK)
    inside = code < VOCAB
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    slot = tl.load(slots + row)
    sample, seed = tl.load(samples + slot), tl.load(seeds + slot)
    noise = _noise(seed, sample, tl.zeros((), tl.int64), code)
    score = tl.load(logits + row * VOCAB + code, inside, 0.0).to(tl.float32)
    seen = tl.load(counts + slot * VOCAB + code, inside, 0) > 0
    penalty = tl.load(penalties + slot)
    score = tl.where(seen, tl.where(score > 0, score / penalty, score * penalty), score)
    is_eos = code == EOS
    too_early = is_eos & (sample < tl.load(min_news + slot))
    score = tl.where(too_early | ((code >= VOCAB - SILENT) & ~is_eos), float("-inf"), score)
    drawn = _pick(score, noise, inside, draws + slot * 8, code, VOCAB, 32)
    tl.store(codes + row * GROUPS, drawn)
    w = tl.arange(0, BLOCK_W)
    tl.store(table_row + (2 * row + 1) * WIDTH + w, tl.load(table + drawn * WIDTH + w, w < WIDTH), w < WIDTH)
    if tl.load(active + row) != 0:
        window = tl.load(windows + slot)
        place = slot * RING + sample % RING
        if (window > 0) & (sample >= window):
            leaving = slot * VOCAB + tl.load(ring + slot * RING + (sample - window) % RING)
            tl.store(counts + leaving, tl.load(counts + leaving) - 1)
        tl.debug_barrier()  # the code that leaves the window may be the new one
        coming = slot * VOCAB + drawn
        tl.store(counts + coming, tl.load(counts + coming) + 1)
        tl.store(ring + place, drawn)
        tl.store(samples + slot, sample + 1)


@triton.jit(do_not_specialize=["group"])
def draw_predictor(
    logits, slots, draws, seeds, samples, codes, table, table_row, row_stride, first_row, group,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr, BITS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_W: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Sample `group` of row b from logits [B, VOCAB] into codes [B, GROUPS]; copy its embedding to table_row [b]."""
    row = tl.program_id(0)
    code = tl.arange(0, BLOCK)
    inside = code < VOCAB
    if EARLY:
        gdc_launch_dependents()
    # The talker's sampler has counted this frame before any pass of the predictor starts.
    slot = tl.load(slots + row)
    noise = _noise(tl.load(seeds + slot), tl.load(samples + slot) - 1, tl.cast(group, tl.int64), code)
    if EARLY:
        gdc_wait()
    score = tl.load(logits + row * VOCAB + code, inside, 0.0).to(tl.float32)
    drawn = _pick(score, noise, inside, draws + slot * 8 + 4, code, VOCAB, BITS)
    tl.store(codes + row * GROUPS + group, drawn)
    w = tl.arange(0, BLOCK_W)
    value = tl.load(table + (first_row + drawn) * WIDTH + w, w < WIDTH)
    tl.store(table_row + row * row_stride + w, value, w < WIDTH)


@triton.jit
def begin_frame(
    frame, text, slots, text_ids, x, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr, EARLY: tl.constexpr
):  # fmt: skip
    """Compute x [B, WIDTH] = frame[slot] + text[text id]."""
    row, w = tl.program_id(0), tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    inside = w < WIDTH
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    slot, word = tl.load(slots + row), tl.load(text_ids + row)
    total = tl.load(frame + slot * WIDTH + w, inside, 0.0).to(tl.float32)
    total += tl.load(text + word * WIDTH + w, inside, 0.0).to(tl.float32)
    tl.store(x + row * WIDTH + w, total.to(x.dtype.element_ty), inside)


@triton.jit
def end_frame(
    codes, offsets, table, frame, slots, active, positions, made, ring,
    LAST_CODE: tl.constexpr, GROUPS: tl.constexpr, RING: tl.constexpr, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """frame[slot] = the sum of the frame's embeddings; codes [B, GROUPS] into ring [slots, RING, GROUPS]; the slot's
    position and number of frames move on where active."""
    row, part = tl.program_id(0), tl.program_id(1)
    w = part * BLOCK_W + tl.arange(0, BLOCK_W)
    g = tl.arange(0, GROUPS)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    slot = tl.load(slots + row)
    code = tl.load(codes + row * GROUPS + g)
    rows = code + tl.load(offsets + g)
    inside = w < WIDTH
    parts = tl.load(table + rows[:, None] * WIDTH + w[None, :], inside[None, :], 0.0).to(tl.float32)
    tl.store(frame + slot * WIDTH + w, tl.sum(parts, 0).to(frame.dtype.element_ty), inside)
    if part == 0:
        step = (tl.load(active + row) != 0).to(tl.int64)
        count = tl.load(made + slot)
        tl.store(ring + (slot * RING + count % RING) * GROUPS + g, tl.minimum(code, LAST_CODE))
        tl.store(made + slot, count + step)
        tl.store(positions + slot, tl.load(positions + slot) + step)
