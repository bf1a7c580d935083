"""Matrix products of a few rows: y = W · x with the norm before and what follows fused in, one pass over the weights.

A step of few rows is bound by reading weights. Up to `NARROW` rows each program holds its weights in registers, which
it begins to read before its input exists, and multiplies them row by row; with more rows tensor cores pay.
A row's sums are made in the same order whatever the other rows hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .launch import Launch, enqueue, next_power_of_2

NARROW = 2
"""Most rows that are multiplied without tensor cores."""


@triton.jit
def _narrow(
    x, gain, weight, bias, residual, out, outputs, inputs, x_stride, out_stride, eps,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr, GATED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
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
    for row in tl.static_range(ROWS):
        v = tl.load(x + row * x_stride + k, k_in, 0.0).to(tl.float32)
        if NORM:
            scale = tl.rsqrt(tl.sum(v * v, 0) / inputs + eps)
            v = (v * g * scale).to(x.dtype.element_ty).to(tl.float32)
        y = tl.sum(w.to(tl.float32) * v[None, :], 1)
        if GATED:
            up = tl.sum(w_up.to(tl.float32) * v[None, :], 1)
            y = y * tl.sigmoid(y) * up
        if BIAS:
            y += b
        if RESIDUAL:
            y += tl.load(residual + row * out_stride + n, n_in, 0.0).to(tl.float32)
        tl.store(out + row * out_stride + n, y.to(out.dtype.element_ty), n_in)


@triton.jit
def _normed(x, gain, out, inputs, x_stride, eps, BLOCK_K: tl.constexpr, EARLY: tl.constexpr):
    """RMS norm of one row into out [rows, inputs]."""
    row, k = tl.program_id(0), tl.arange(0, BLOCK_K)
    k_in = k < inputs
    g = tl.load(gain + k, k_in, 0.0).to(tl.float32)
    if EARLY:
        gdc_wait()
        gdc_launch_dependents()
    v = tl.load(x + row * x_stride + k, k_in, 0.0).to(tl.float32)
    v *= tl.rsqrt(tl.sum(v * v, 0) / inputs + eps)
    tl.store(out + row * inputs + k, (v * g).to(out.dtype.element_ty), k_in)


@triton.jit
def _wide(
    x, weight, bias, residual, out, rows, outputs, inputs, x_stride, out_stride,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr,
    GATED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    n_in, row_in = n < outputs, row < rows
    if EARLY:
        gdc_wait()
    y = tl.zeros((BLOCK_N, ROWS), tl.float32)
    up = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for start in tl.range(0, inputs, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_in = k < inputs
        inside = n_in[:, None] & k_in[None, :]
        places = n[:, None] * inputs + k[None, :]
        w = tl.load(weight + places, inside, 0.0)
        v = tl.load(x + row[None, :] * x_stride + k[:, None], k_in[:, None] & row_in[None, :], 0.0)
        y = tl.dot(w, v, y, input_precision="ieee")
        if GATED:
            w_up = tl.load(weight + outputs * inputs + places, inside, 0.0)
            up = tl.dot(w_up, v, up, input_precision="ieee")
    if EARLY:
        gdc_launch_dependents()
    if GATED:
        y = y * tl.sigmoid(y) * up
    if BIAS:
        y += tl.load(bias + n, n_in, 0.0).to(tl.float32)[:, None]
    places = row[None, :] * out_stride + n[:, None]
    inside = n_in[:, None] & row_in[None, :]
    if RESIDUAL:
        y += tl.load(residual + places, inside, 0.0).to(tl.float32)
    tl.store(out + places, y.to(out.dtype.element_ty), inside)


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm before the product: gain [inputs]."""

    gain: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Linear:
    """weight [outputs, inputs], or [2 · outputs, inputs] where `gated`: silu(first half) · second half.

    Input [rows, inputs] and output [rows, outputs] are of the weight's type; their rows may lie apart.
    """

    weight: Tensor
    launch: Launch
    norm: Norm | None = None
    bias: Tensor | None = None
    gated: bool = False

    def __call__(self, x: Tensor, out: Tensor, residual: Tensor | None = None) -> Tensor:
        """Fill `out` with the product of `x`, plus `residual` (laid out as `out`, or `out` itself); give it back."""
        rows, outputs = out.shape
        assert self.weight.shape == (outputs * (1 + self.gated), x.shape[1]), (self.weight.shape, x.shape, out.shape)
        assert residual is None or residual.stride() == out.stride(), (out.stride(), residual.stride())
        if rows <= NARROW:
            self._multiply_narrow(x, out, residual)
        else:
            self._multiply_wide(self._normed(x) if self.norm else x, out, residual)
        return out

    def _multiply_narrow(self, x: Tensor, out: Tensor, residual: Tensor | None) -> None:
        norm, nothing, inputs = self.norm, self.weight, x.shape[1]
        tile, warps = (8192, 4) if inputs <= 1024 else (16384, 4) if inputs <= 4096 else (32768, 8)
        block_k = next_power_of_2(inputs)
        block_n = max(1, tile // block_k // (1 + self.gated))
        enqueue(
            _narrow, (triton.cdiv(out.shape[1], block_n),),
            x, norm.gain if norm else nothing, self.weight, *self._addends(residual), out, out.shape[1], inputs,
            x.stride(0), out.stride(0), norm.eps if norm else 0.0,
            BLOCK_N=block_n, BLOCK_K=block_k, ROWS=out.shape[0], NORM=norm is not None, GATED=self.gated,
            BIAS=self.bias is not None, RESIDUAL=residual is not None, num_warps=warps, **self.launch.options,
        )  # fmt: skip

    def _multiply_wide(self, x: Tensor, out: Tensor, residual: Tensor | None) -> None:
        rows, outputs = out.shape
        block_rows = min(32, max(16, next_power_of_2(rows)))  # 64 would want more shared memory than an RTX 30 has
        block_n, block_k, warps = (32, 128, 4) if self.gated else (16, 256, 2)
        grid = (triton.cdiv(outputs, block_n), triton.cdiv(rows, block_rows))
        enqueue(
            _wide, grid,
            x, self.weight, *self._addends(residual), out, rows, outputs, x.shape[1], x.stride(0), out.stride(0),
            BLOCK_N=block_n, BLOCK_K=block_k, ROWS=block_rows, GATED=self.gated, BIAS=self.bias is not None,
            RESIDUAL=residual is not None, num_warps=warps, num_stages=4, **self.launch.options,
        )  # fmt: skip

    def _normed(self, x: Tensor) -> Tensor:
        assert self.norm is not None
        out = x.new_empty(x.shape)
        enqueue(
            _normed, (x.shape[0],), x, self.norm.gain, out, x.shape[1], x.stride(0), self.norm.eps,
            BLOCK_K=next_power_of_2(x.shape[1]), num_warps=4, **self.launch.options,
        )  # fmt: skip
        return out

    def _addends(self, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pointers for the kernels, which read only what their switches name."""
        return self.weight if self.bias is None else self.bias, self.weight if residual is None else residual
