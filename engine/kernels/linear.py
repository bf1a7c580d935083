"""Matrix products for few rows: y = W · x fused with the preceding norm and what follows, in one pass over the weights.

With few rows, a step is bound by reading weights. For one row, each program holds its weights in registers and starts
loading them before its input is ready; more rows use tensor cores.

A product that is added to the residual stream has few outputs and many inputs, hence few programs. With more than one
row, its inputs are split into parts (split-K): each program sums one part, and the following norm adds the parts to the
stream in order. The summation order of a row is therefore independent of the other rows, and needs no atomics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .launch import Launch, enqueue, next_power_of_2
from .tiles import Product, Tiling, find_tiling, row_block


@triton.jit
def _gemv(
    x, gain, weight, bias, out, outputs, inputs, eps, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, BIAS: tl.constexpr, ADD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Compute one row: x [inputs] → out [outputs], overwritten or, with ADD, accumulated."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    n_in, k_in = n < outputs, k < inputs
    inside = n_in[:, None] & k_in[None, :]
    places = n[:, None] * inputs + k[None, :]
    if EARLY:
        gdc_launch_dependents()
    w = tl.load(weight + places, inside, 0.0)
    if GATED:
        w_up = tl.load(weight + outputs * inputs + places, inside, 0.0)
    if NORM:
        g = tl.load(gain + k, k_in, 0.0).to(tl.float32)
    if BIAS:
        b = tl.load(bias + n, n_in, 0.0).to(tl.float32)
    if EARLY:
        gdc_wait()
    v = tl.load(x + k, k_in, 0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(v * v, 0) / inputs + eps)
        v = (v * g * scale).to(x.dtype.element_ty).to(tl.float32)
    y = tl.sum(w.to(tl.float32) * v[None, :], 1)
    if GATED:
        up = tl.sum(w_up.to(tl.float32) * v[None, :], 1)
        y = y * tl.sigmoid(y) * up
    if BIAS:
        y += b
    if ADD:
        y += tl.load(out + n, n_in, 0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), n_in)


@triton.jit
def _gemm(
    x, weight, bias, out, rows, outputs, inputs, share, x_stride, out_stride,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr, EVEN: tl.constexpr,
    GATED: tl.constexpr, BIAS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Compute x [rows, inputs] → out [parts, rows, outputs]; each part sums `share` inputs.

    EVEN: no tile crosses an edge of the weight.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # rows of the weight
    if GATED:
        n = n // 2 + n % 2 * outputs  # interleave gate and up rows, so that one product covers both
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(2)
    end = tl.minimum((part + 1) * share, inputs)
    n_in = n < outputs * (1 + GATED)
    read = tl.minimum(row, rows - 1)  # rows past the end re-read the last one and are not stored
    zero: tl.constexpr = None if EVEN else 0.0
    if EARLY:
        gdc_wait()
    y = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for start in tl.range(part * share, end, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_in = k < end
        w = tl.load(weight + n[:, None] * inputs + k[None, :], None if EVEN else n_in[:, None] & k_in[None, :], zero)
        v = tl.load(x + read[None, :] * x_stride + k[:, None], None if EVEN else k_in[:, None], zero)
        y = tl.dot(w, v, y, input_precision="ieee")
    if EARLY:
        gdc_launch_dependents()
    WIDTH: tl.constexpr = BLOCK_N // (1 + GATED)
    n = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    n_in = n < outputs
    if GATED:
        gate, up = tl.split(tl.permute(tl.reshape(y, (WIDTH, 2, ROWS)), (0, 2, 1)))
        y = gate * tl.sigmoid(gate) * up
    if BIAS:
        y += tl.load(bias + n, n_in, 0.0).to(tl.float32)[:, None]
    places = (part * rows + row)[None, :] * out_stride + n[:, None]
    tl.store(out + places, y.to(out.dtype.element_ty), n_in[:, None] & (row < rows)[None, :])


@triton.jit
def _add_norm(
    x, parts, gain, out, inputs, x_stride, part_stride, part_row_stride, eps,
    PARTS: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Add the parts to a row of x [rows, inputs] in place, and write its RMS norm to out [rows, inputs]."""
    row, k = tl.program_id(0), tl.arange(0, BLOCK_K)
    k_in = k < inputs
    if EARLY:
        gdc_launch_dependents()
    g = tl.load(gain + k, k_in, 0.0).to(tl.float32)
    if EARLY:
        gdc_wait()
    v = tl.load(x + row * x_stride + k, k_in, 0.0).to(tl.float32)
    if PARTS:
        y = tl.zeros((BLOCK_K,), tl.float32)
        for part in tl.static_range(PARTS):
            y += tl.load(parts + part * part_stride + row * part_row_stride + k, k_in, 0.0)
        v = (v + y).to(x.dtype.element_ty)
        tl.store(x + row * x_stride + k, v, k_in)
        v = v.to(tl.float32)
    v *= tl.rsqrt(tl.sum(v * v, 0) / inputs + eps)
    tl.store(out + row * inputs + k, (v * g).to(out.dtype.element_ty), k_in)


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm before the product: gain [inputs]."""

    gain: Tensor
    eps: float

    def __call__(self, x: Tensor, parts: Tensor | None, launch: Launch) -> Tensor:
        """Add `parts` [parts, rows, inputs], if any, to x [rows, inputs] in place; return its norm."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        strides = (0, 0) if parts is None else parts.stride()[:2]
        enqueue(
            _add_norm, (len(x),), x, x if parts is None else parts, self.gain, out, x.shape[1], x.stride(0), *strides,
            self.eps, PARTS=0 if parts is None else len(parts), BLOCK_K=next_power_of_2(x.shape[1]), num_warps=8,
            **launch.options,
        )  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class Linear:
    """Product with weight [outputs, inputs], or [2 · outputs, inputs] if `gated`: silu(first half) · second half.

    Input [rows, inputs] and output [rows, outputs] have the weight's dtype; their rows may be strided.
    """

    weight: Tensor
    launch: Launch
    norm: Norm | None = None
    bias: Tensor | None = None
    gated: bool = False
    tiling: Tiling | None = None
    """Overrides the measured tiling."""

    def __call__(self, x: Tensor, out: Tensor, parts: Tensor | None = None) -> Tensor:
        """Write the product of `x` to `out` and return it. `parts` are those that `add` left for the norm to add."""
        norm, tiling = self.norm, self._choose("gated" if self.gated else "plain", len(x))
        if norm and (len(x) > 1 or parts is not None):
            x, norm = norm(x, parts, self.launch), None
        if len(x) == 1:
            self._gemv(tiling, x, out, norm=norm)
        else:
            self._gemm(tiling, x, out)
        return out

    def add(self, x: Tensor, to: Tensor) -> Tensor | None:
        """Add the product of `x` to `to` [rows, outputs], or return float32 [parts, rows, outputs] for the norm."""
        tiling = self._choose("added", len(x))
        if len(x) == 1:
            self._gemv(tiling, x, to, add=True)
            return None
        parts = x.new_empty(tiling.parts, *to.shape, dtype=torch.float32)
        self._gemm(tiling, x, parts)
        return parts

    def _choose(self, kind: str, rows: int) -> Tiling:
        outputs, inputs = self.weight.shape
        return self.tiling or find_tiling(Product(kind, outputs // (1 + self.gated), inputs, row_block(rows)))

    def _gemv(self, tiling: Tiling, x: Tensor, out: Tensor, norm: Norm | None = None, add: bool = False) -> None:
        nothing, bias = self.weight, self.bias
        enqueue(
            _gemv, (triton.cdiv(out.shape[1], tiling.outputs),),
            x, norm.gain if norm else nothing, self.weight, nothing if bias is None else bias, out,
            out.shape[1], x.shape[1], norm.eps if norm else 0.0, BLOCK_N=tiling.outputs, BLOCK_K=tiling.depth,
            NORM=norm is not None, GATED=self.gated, BIAS=bias is not None, ADD=add, num_warps=tiling.warps,
            **self.launch.options,
        )  # fmt: skip

    def _gemm(self, tiling: Tiling, x: Tensor, out: Tensor) -> None:
        """Compute the product into out [rows, outputs] or [parts, rows, outputs]."""
        (height, inputs), (rows, outputs), block = self.weight.shape, out.shape[-2:], row_block(len(x))
        tile = tiling.within(self.launch.shared_bytes, block, self.weight.element_size())
        share = triton.cdiv(inputs, tile.parts)
        enqueue(
            _gemm, (triton.cdiv(height, tile.outputs), triton.cdiv(rows, block), tile.parts),
            x, self.weight, self.weight if self.bias is None else self.bias, out, rows, outputs, inputs, share,
            x.stride(0), out.stride(-2), BLOCK_N=tile.outputs, BLOCK_K=tile.depth, ROWS=block,
            EVEN=height % tile.outputs == inputs % tile.parts == share % tile.depth == 0, GATED=self.gated,
            BIAS=self.bias is not None, num_warps=tile.warps, num_stages=tile.stages, **self.launch.options,
        )  # fmt: skip
