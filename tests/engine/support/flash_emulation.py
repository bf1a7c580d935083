"""The two functions of flash-attn 2.8 that the engine calls, in plain torch on the CPU, as strict as they are.

Source: the signatures and checks of flash_attn 2.8 (flash_attn_interface.py, csrc/flash_attn/flash_api.cpp).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.acceleration.flash import FlashAttention


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, *, cache_seqlens: Tensor, block_table: Tensor, causal: bool
) -> Tensor:
    """q [B, T, heads, d]; caches [blocks, block positions, kv_heads, d]."""
    _check(q, k_cache, v_cache, block_table, causal)
    assert cache_seqlens.dtype == torch.int32
    assert len(cache_seqlens) == len(q) == len(block_table)
    rows = [
        _mixed(query, _past(k_cache, table, seen), _past(v_cache, table, seen))
        for query, table, seen in zip(q, block_table, cache_seqlens.tolist(), strict=True)
    ]
    return torch.stack(rows)


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    *, causal: bool, block_table: Tensor,
) -> Tensor:  # fmt: skip
    """q [total, heads, d]; k and v as the caches above."""
    _check(q, k, v, block_table, causal)
    for edges, longest in ((cu_seqlens_q, max_seqlen_q), (cu_seqlens_k, max_seqlen_k)):
        assert edges.dtype == torch.int32
        assert len(edges) == len(block_table) + 1
        assert edges.diff().max() == longest
    assert cu_seqlens_q[-1] == len(q)
    starts, lengths = cu_seqlens_q.tolist(), cu_seqlens_k.diff().tolist()
    rows = [
        _mixed(q[start:end], _past(k, table, seen), _past(v, table, seen))
        for start, end, table, seen in zip(starts, starts[1:], block_table, lengths, strict=False)
    ]
    return torch.cat(rows)


EMULATED = FlashAttention(flash_attn_varlen_func, flash_attn_with_kvcache)


def _check(q: Tensor, keys: Tensor, values: Tensor, table: Tensor, causal: bool) -> None:
    assert causal
    assert q.stride(-1) == keys.stride(-1) == values.stride(-1) == 1
    assert keys.shape == values.shape
    assert keys.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"
    assert q.shape[-2] % keys.shape[2] == 0
    assert q.shape[-1] == keys.shape[3]
    assert table.dtype == torch.int32
    assert table.stride(-1) == 1


def _past(cache: Tensor, table: Tensor, seen: int) -> Tensor:
    """[seen, kv_heads, d] of one row."""
    return cache[table.long()].flatten(0, 1)[:seen]


def _mixed(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """query [T, heads, d]; the last query is aligned with the last key; causal, as in flash-attn."""
    steps, seen, group = len(query), len(keys), query.shape[1] // keys.shape[1]
    visible = torch.arange(seen) <= torch.arange(seen - steps, seen).unsqueeze(1)
    heads = (tensor.repeat_interleave(group, 1).transpose(0, 1) for tensor in (keys, values))
    return F.scaled_dot_product_attention(query.transpose(0, 1), *heads, attn_mask=visible).transpose(0, 1)
