"""The talker through flash-attn, whose functions are emulated here: the same codes, prompts together and apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.acceleration import flash
from engine.acceleration.flash import FlashTalker, cosine, flash_strategies, obstacle
from engine.acceleration.verify import UnusableKernels
from engine.paged.kv_cache import PoolSize
from engine.paged.runner import PagedRunner
from tests.engine.support.engine_harness import TEXTS, Speaker, same
from tests.engine.support.flash_emulation import EMULATED
from tests.engine.support.tiny_models import tiny_model

LONG = "one two three, 你好吗？四五六 and e\u0301 한국어 " * 14  # more positions than a block has
POOL = PoolSize(6, 256)


def paged(max_positions: int = 512, size: PoolSize = POOL) -> PagedRunner:
    return PagedRunner(tiny_model("custom_voice"), 3, max_positions, size)


@pytest.mark.parametrize("lag", [0, 1])
def test_flash_attention_codes_equal_eager(lag: int) -> None:
    speaker = Speaker(slots=3, max_positions=512, lag=lag, pool=POOL)
    runner = speaker.runner
    runner.strategies = FlashTalker(runner, EMULATED).strategies(runner, runner.strategies)
    for job, text in enumerate([LONG, *TEXTS[:2], LONG]):
        speaker.start(job, text, streaming=job % 3 > 0, max_new_tokens=8, seed=job)
    said = speaker.finish()
    assert speaker.runner.paging.pool.used == 0
    for job, text in enumerate([LONG, *TEXTS[:2], LONG]):
        long = Speaker(slots=1, max_positions=512)
        long.start(job, text, streaming=job % 3 > 0, max_new_tokens=8, seed=job)
        same(said[job], long.finish()[job])


def test_flash_self_check_detects_errors_and_frees_blocks() -> None:
    runner = paged()
    assert cosine(runner, FlashTalker(runner, EMULATED)) > 0.9999

    def wrong(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: real(*given, **named).roll(1, -2)  # heads exchanged

    for name in ("flash_attn_varlen_func", "flash_attn_with_kvcache"):
        broken = replace(EMULATED, **{name: wrong(getattr(EMULATED, name))})
        assert cosine(runner, FlashTalker(runner, broken)) < 0.99
    assert (runner.paging.pool.available, runner.paging.pool.used) == (6, 0)
    assert not runner.cache.table.any()


def test_flash_strategies_report_why_they_are_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "flash-attn" in (obstacle(paged()) or "")
    monkeypatch.setattr(flash.importlib.util, "find_spec", lambda name: object())
    runner = paged()
    with pytest.raises(UnusableKernels, match="GPU"):
        flash_strategies(runner, runner.strategies)


def test_flash_self_check_fails_for_small_blocks_and_frees_them() -> None:
    runner = paged(256, PoolSize(20, 16))
    with pytest.raises(AssertionError, match="divisible by 256"):
        cosine(runner, FlashTalker(runner, EMULATED))
    assert (runner.paging.pool.available, runner.cache.table.any()) == (20, False)


def test_flash_emulations_agree_with_each_other() -> None:
    """One step after a prompt equals the prompt with one position more."""
    noise = torch.Generator().manual_seed(0)
    query = torch.randn(1, 5, 4, 16, generator=noise)
    keys, values = torch.randn(2, 3, 256, 2, 16, generator=noise)
    table = torch.tensor([[2, 1]], dtype=torch.int32)
    edges, ends = (torch.tensor([0, size], dtype=torch.int32) for size in (5, 300))
    whole = EMULATED.flash_attn_varlen_func(query[0], keys, values, edges, ends, 5, 300, causal=True, block_table=table)
    seen = torch.tensor([300], dtype=torch.int32)
    last = EMULATED.flash_attn_with_kvcache(
        query[:, 4:], keys, values, cache_seqlens=seen, block_table=table, causal=True
    )
    torch.testing.assert_close(last[0, 0], whole[4])
