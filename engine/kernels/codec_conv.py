"""One kernel for all matrices of the codec decoder: a causal convolution as a GEMM over taps, without im2col.

Activations are time-major [B, n, C]. The history of a convolution is double-buffered in two halves per slot: it reads
one and writes the other; the stream's turn selects which. No program therefore writes what another may still read, the
new history is written by additional programs of the same launch, and histories longer than the step need no separate
kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import triton
import triton.language as tl
from torch import Tensor

from .launch import enqueue

ENOUGH_PROGRAMS = 128
"""Tiles shrink until there are about as many programs as a large GPU has multiprocessors."""
SHARED_BYTES = 90 * 1024
KEPT = tl.constexpr(4096)
"""History elements copied per program."""


@dataclass(frozen=True, slots=True)
class ConvRows:
    """The rows of one step, and where the histories of their streams are stored."""

    halves: Tensor  # [B] int64, slot · 2 + turn
    history: Tensor  # [2 · slots, floats]

    @property
    def batch(self) -> int:
        return self.halves.shape[0]


@dataclass(frozen=True, slots=True)
class Conv:
    """A packed convolution, fused with everything up to the next one. Vectors are float32."""

    weight: Tensor  # [N, taps, C]
    bias: Tensor | None = None  # [N]
    dilation: int = 1
    offset: int = 0
    """Start of its history within a half."""
    activation: str = ""
    """"", "gelu", "gated" (columns are gate, up, gate, up, ...) or "clamp"."""
    norm_eps: float | None = None
    """If set, the input is RMS-normalised; the norm's weight is already folded into the matrix."""
    frequency: Tensor | None = None  # [N] of the Snake that produces the next input
    gain: Tensor | None = None  # [N]

    @property
    def width(self) -> int:
        """Number of inputs in the history."""
        return (self.weight.shape[1] - 1) * self.dilation


@dataclass(frozen=True, slots=True)
class Tile:
    """Block sizes of one launch."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


TILES = ((128, 128), (128, 64), (64, 64), (64, 32), (32, 32), (64, 16), (16, 32), (16, 16))


def choose_tile(rows: int, outputs: int, channels: int, item_bytes: int) -> Tile:
    """Return the largest tile that wastes little and yields enough programs; a pure function of the shapes."""
    height, breadth = next((size for size in TILES if _fits(size, rows, outputs)), TILES[-1])
    depth = 128 if height * breadth <= 512 else 64 if height * breadth <= 8192 else 32
    depth = max(16, min(depth * 2 // item_bytes, gcd(channels, 128)))
    stages = max(2, min(5, SHARED_BYTES // ((height + breadth) * depth * item_bytes)))
    warps = 8 if height * breadth >= 16384 else 2 if breadth == 16 else 4
    return Tile(height, breadth, depth, warps, stages)


def _fits(size: tuple[int, int], rows: int, outputs: int) -> bool:
    height, breadth = size
    padded = -(-outputs // breadth) * breadth
    programs = -(-rows // height) * (padded // breadth)
    wasteful = height >= 2 * rows or (breadth > 16 and 3 * padded > 4 * outputs)
    return programs >= ENOUGH_PROGRAMS and not wasteful


def convolve(
    conv: Conv, x: Tensor, rows: ConvRows, residual: Tensor | None = None, stream: Tensor | None = None,
    out: Tensor | None = None,
) -> None:  # fmt: skip
    """Compute x [B, n, C] → [B, n, N] (N / 2 if gated) plus `residual`; write it to `stream`, and its Snake to `out`.

    `stream` may be the same tensor as `residual`: each program only reads the sums that it overwrites.
    """
    outputs, taps, channels = conv.weight.shape
    batch, steps = rows.batch, x.numel() // (rows.batch * channels)
    tile = choose_tile(batch * steps, outputs, channels, conv.weight.element_size())
    tiles = triton.cdiv(batch * steps, tile.rows) * triton.cdiv(outputs, tile.columns)
    keepers = batch * triton.cdiv(conv.width * channels, KEPT.value)
    enqueue(
        _convolve, (tiles + keepers,),
        x, rows.history[0, conv.offset :], rows.halves, conv.weight, conv.bias, conv.frequency, conv.gain,
        residual, stream, out, batch * steps, steps, conv.dilation, rows.history.shape[1],
        CHANNELS=channels, OUTPUTS=outputs, TAPS=taps, ACTIVATION=conv.activation, NORM_EPS=conv.norm_eps,
        BM=tile.rows, BN=tile.columns, BK=tile.depth, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


@triton.jit
def sine_squared(x):
    """sin²(x) in float32 to within 1e-7: x is reduced to ±π/2; the sign of the sine does not matter."""
    turns = tl.floor(x * 0.3183098861837907 + 0.5)
    x = x - turns * 3.140625  # few significant bits, so the product is exact
    x = x - turns * 9.67653589793e-4
    y = x * x
    sine = x * (1 + y * (-1 / 6 + y * (1 / 120 + y * (-1 / 5040 + y * (1 / 362880 - y * (1 / 39916800))))))
    return sine * sine


@triton.jit
def keep_history(x, history, halves, keeper, steps, floats, width, CHANNELS: tl.constexpr):
    """Write the last `width` inputs to the half that no program reads; some may be copied from the old history."""
    size = width * CHANNELS
    chunks = tl.cdiv(size, KEPT)
    row = keeper // chunks
    element = keeper % chunks * KEPT + tl.arange(0, KEPT)
    half = tl.load(halves + row)
    kept = element + steps * CHANNELS  # its place in the old history, or past its end
    old = history + half * floats + kept
    new = x + row * steps * CHANNELS + (kept - size)
    value = tl.load(tl.where(kept < size, old, new), mask=element < size)
    tl.store(history + (half ^ 1) * floats + element, value, mask=element < size)


@triton.jit
def _sums(
    x, history, halves, weight, row, column, rows, steps, dilation, floats,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, TAPS: tl.constexpr, NORM_EPS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Return the products [BM, BN] of a tile's inputs over all taps."""
    row = tl.minimum(row, rows - 1)
    time = row % steps
    filter_rows = weight + tl.minimum(column, OUTPUTS - 1).to(tl.int64) * (TAPS * CHANNELS)
    here = x + row.to(tl.int64) * CHANNELS
    past = x
    if TAPS > 1:
        past = history + tl.load(halves + row // steps) * floats + (time + (TAPS - 1) * dilation) * CHANNELS
    total = tl.zeros((BM, BN), tl.float32)
    power = tl.zeros((BM,), tl.float32)
    for step in range(TAPS * tl.cdiv(CHANNELS, BK)):
        tap = step // tl.cdiv(CHANNELS, BK)
        channel = step % tl.cdiv(CHANNELS, BK) * BK + tl.arange(0, BK)
        start = here
        if TAPS > 1:
            ago = (TAPS - 1 - tap) * dilation
            start = tl.where(time >= ago, here - ago * CHANNELS, past - ago * CHANNELS)
        within = channel < CHANNELS
        a = tl.load(start[:, None] + channel[None, :], mask=within[None, :], other=0.0)
        b = tl.load(filter_rows[:, None] + (tap * CHANNELS + channel)[None, :], mask=within[None, :], other=0.0)
        if NORM_EPS is not None:
            power += tl.sum(a.to(tl.float32) * a.to(tl.float32), 1)
        total = tl.dot(a.to(b.dtype), tl.trans(b), total, input_precision="tf32")
    if NORM_EPS is not None:
        total *= tl.rsqrt(power / CHANNELS + NORM_EPS)[:, None]
    return total


@triton.jit
def _activate(y, ACTIVATION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    if ACTIVATION == "gelu":
        y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    if ACTIVATION == "clamp":
        y = tl.minimum(tl.maximum(y, -1.0), 1.0)
    if ACTIVATION == "gated":
        gate, up = tl.split(tl.reshape(y, (BM, BN // 2, 2)))
        y = gate * tl.sigmoid(gate) * up
    return y


@triton.jit(do_not_specialize=["rows", "steps", "dilation"])
def _convolve(
    x, history, halves, weight, bias, frequency, gain, residual, stream, out, rows, steps, dilation, floats,
    CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, TAPS: tl.constexpr, ACTIVATION: tl.constexpr,
    NORM_EPS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    across: tl.constexpr = tl.cdiv(OUTPUTS, BN)
    tiles = tl.cdiv(rows, BM) * across
    if TAPS > 1 and program >= tiles:
        width = (TAPS - 1) * dilation
        keep_history(x, history, halves, program - tiles, steps, floats, width, CHANNELS)
        return
    row = program // across * BM + tl.arange(0, BM)
    column = program % across * BN + tl.arange(0, BN)
    y = _sums(
        x, history, halves, weight, row, column, rows, steps, dilation, floats,
        CHANNELS, OUTPUTS, TAPS, NORM_EPS, BM, BN, BK,
    )  # fmt: skip
    if bias is not None:
        y += tl.load(bias + column, mask=column < OUTPUTS, other=0.0)[None, :]
    y = _activate(y, ACTIVATION, BM, BN)
    outputs = OUTPUTS
    if ACTIVATION == "gated":
        outputs = OUTPUTS // 2
        column = program % across * (BN // 2) + tl.arange(0, BN // 2)
    inside = (row < rows)[:, None] & (column < outputs)[None, :]
    place = row.to(tl.int64)[:, None] * outputs + column[None, :]
    if residual is not None:
        y += tl.load(residual + place, mask=inside, other=0.0)
    if stream is not None:
        tl.store(stream + place, y, mask=inside)
    if frequency is not None:
        pitch = tl.load(frequency + column, mask=column < outputs, other=0.0)
        strength = tl.load(gain + column, mask=column < outputs, other=0.0)
        y += strength[None, :] * sine_squared(y * pitch[None, :])
    if out is not None:
        tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)
