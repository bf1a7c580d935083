"""How much the paged engine takes, and in blocks of which size."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from engine.api import paged_engine
from engine.api.paged_engine import PagedOptions, block_positions, blocks_within, paged_runner, pool_size
from engine.checkpoint.memory_plan import RESERVE_BYTES
from tests.engine.support.tiny_models import tiny_model

GB = 10**9


def test_pool_size_on_cpu_holds_one_sequence_of_full_length() -> None:
    model = tiny_model("custom_voice")
    size = pool_size(model, PagedOptions(), 1000)
    assert (size.blocks, size.block_positions) == (63, 16)
    runner = paged_runner(model, PagedOptions(slots=5, max_positions=500))
    assert (runner.slots, runner.max_positions, runner.paging.pool.blocks) == (5, 500, 32)


def test_pool_size_follows_gpu_memory_utilization(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("custom_voice")
    t = model.config.talker.transformer
    block_bytes = t.layers * 2 * t.kv_heads * t.head_dim * 4 * 16

    weight = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    on_gpu = SimpleNamespace(config=model.config, talker=SimpleNamespace(head=SimpleNamespace(weight=weight)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * GB, 24 * GB))
    assert pool_size(on_gpu, PagedOptions(), 4096).blocks == 32 * 256  # all that its slots can fill
    few = PagedOptions(gpu_memory_utilization=100.5 * block_bytes / (24 * GB))
    assert pool_size(on_gpu, few, 4096).blocks == 99  # and block 0


def test_blocks_within_rejects_unavailable_or_too_small_share() -> None:
    assert blocks_within(10 * GB, 10 * GB + RESERVE_BYTES, GB) == 9
    with pytest.raises(MemoryError, match=r"11\.0 GB and 10\.0 GB are left: lower paged_gpu_memory_utilization"):
        blocks_within(11 * GB, 10 * GB + RESERVE_BYTES, GB)
    with pytest.raises(MemoryError, match="raise paged_gpu_memory_utilization"):
        blocks_within(GB, 10 * GB, GB)


@pytest.mark.parametrize(
    ("kernels", "installed", "positions"),
    [
        ("auto", {"triton"}, 16),
        ("auto", {"triton", "flash_attn"}, 16),
        ("auto", {"flash_attn"}, 256),
        ("auto", set(), 16),
        ("flash", {"triton", "flash_attn"}, 256),
        ("plain", {"flash_attn"}, 16),
    ],
)
def test_block_positions_are_large_only_for_flash_attention(
    monkeypatch: pytest.MonkeyPatch, kernels: str, installed: set[str], positions: int
) -> None:
    monkeypatch.setattr(paged_engine.importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert block_positions(kernels) == positions


@pytest.mark.parametrize(
    "bad",
    [
        {"gpu_memory_utilization": 0},
        {"gpu_memory_utilization": 1.5},
        {"kernels": "fast"},
        {"slots": 0},
        {"max_positions": 0},
    ],
)
def test_paged_options_reject_invalid_values(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        PagedOptions(**bad)
