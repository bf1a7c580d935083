"""The fused attention over blocks, in Triton's interpreter: what it is over rows, and what plain torch makes of it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
pytest.importorskip("triton")

from torch import Tensor

from engine.acceleration.fused import FusedDecodeStep
from engine.acceleration.verify import frame_cosine
from engine.checkpoint.load import LoadOptions
from engine.checkpoint.loaded import LoadedCheckpoint, load_checkpoint
from engine.kernels.attention import AttendStep, Heads, Past
from engine.kernels.launch import Launch
from engine.model.attention import Attention, SlotCache, rotary_table, visible_bias
from engine.model.config import TransformerConfig
from engine.paged.kv_cache import BlockLayer, PoolSize
from engine.paged.runner import PagedRunner
from engine.prompt.sampling_params import resolve_sampling
from engine.scheduler.engine import Engine, GenerationRequest
from tests.engine.support.tiny_models import tiny_directory

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="tests/gpu has the compiled kernels"),
]
SLOTS, ROOM, HEADS, KV_HEADS, D = 4, 160, 4, 2, 16
FRAMES = 1
POSITIONS = [0, 37, 64, 129]
"""Of the slots: nothing before it, part of a tile, a tile, several."""


def scene(page: int) -> tuple[Attention, SlotCache, BlockLayer, Tensor]:
    """A layer, and the same random past of every slot in rows and in shuffled blocks with their table."""
    noise = torch.Generator().manual_seed(page)
    attention = Attention(TransformerConfig(32, 64, 1, HEADS, KV_HEADS, D, 1e4, 1e-6), qk_norm=True)
    for weight in attention.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=noise)
    rows = SlotCache(*torch.randn(2, SLOTS, KV_HEADS, ROOM, D, generator=noise))
    columns = -(-ROOM // page)
    table = (1 + torch.randperm(SLOTS * columns, generator=noise)).view(SLOTS, columns).int()
    blocks = BlockLayer(*torch.randn(2, 1 + SLOTS * columns, KV_HEADS, page, D, generator=noise))
    for slot in range(SLOTS):
        for position in range(ROOM):
            block, offset = table[slot, position // page], position % page
            blocks.keys[block, :, offset] = rows.keys[slot, :, position]
            blocks.values[block, :, offset] = rows.values[slot, :, position]
    return attention, rows, blocks, table


@pytest.mark.parametrize("page", [1, 3, 16, 64, 256])
@torch.inference_mode()
def test_fused_attention_over_blocks_equals_rows(page: int) -> None:
    attention, rows, blocks, table = scene(page)
    cos, sin = rotary_table(D, 1e4, ROOM, torch.device("cpu"), torch.float32)
    slots, positions = torch.tensor([2, 0, 3, 1]), torch.tensor(POSITIONS)
    x = torch.randn(len(slots), 32, generator=torch.Generator().manual_seed(1))
    step = AttendStep(Heads(HEADS, KV_HEADS, D, 1e-6), attention.qk_norm, Launch(False))
    qkv = attention.qkv(x)
    over_rows = step(qkv, Past(rows.keys, rows.values, cos, sin, slots, positions), torch.empty(4, HEADS * D))
    past = Past(blocks.keys, blocks.values, cos, sin, slots, positions, table)
    over_blocks = step(qkv, past, torch.empty(4, HEADS * D))
    assert torch.equal(over_blocks, over_rows)
    for slot in slots.tolist():
        position = int(positions[slot])
        block, offset = table[slot, position // page], position % page
        assert torch.equal(blocks.keys[block, :, offset], rows.keys[slot, :, position])
        assert torch.equal(blocks.values[block, :, offset], rows.values[slot, :, position])
    assert (attention.out(over_blocks) - plain(attention, x, rows, slots, positions)).abs().max() < 1e-5


def plain(attention: Attention, x: Tensor, rows: SlotCache, slots: Tensor, positions: Tensor) -> Tensor:
    """One step of the layer in plain torch."""
    cos, sin = rotary_table(D, 1e4, ROOM, torch.device("cpu"), torch.float32)
    columns = positions[slots].unsqueeze(1)
    bias = visible_bias(torch.arange(ROOM) <= columns.unsqueeze(-1), HEADS // KV_HEADS, torch.float32)

    def store(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return rows.update(key, value, slots, columns, ROOM)

    return attention(x.unsqueeze(1), (cos[columns], sin[columns]), bias, store).squeeze(1)


@torch.inference_mode()
def test_fused_frames_over_blocks_equal_eager() -> None:
    loaded = load_checkpoint(tiny_directory("custom_voice"), LoadOptions("cpu", torch.float32, fold_text=True))
    plain_runner, fused_runner = (PagedRunner(loaded.model, 2, 48, PoolSize(16, 7)) for _ in range(2))
    step = FusedDecodeStep(loaded.model, fused_runner.state)
    fused_runner.strategies = replace(fused_runner.strategies, step=step)
    assert frame_cosine(fused_runner, step) > 0.9999  # the check at start uses the null block
    said = [speak(Engine(runner, loaded.tokenizer), loaded) for runner in (plain_runner, fused_runner)]
    assert said[0][0].shape == (16, FRAMES)
    for ours, theirs in zip(*said, strict=True):
        assert torch.equal(ours, theirs)


def speak(engine: Engine, loaded: LoadedCheckpoint) -> list[Tensor]:
    """Codes [16, FRAMES] of two jobs."""
    parts: list[list[Tensor]] = [[], []]
    for job, speaker in enumerate(("ryan", "vivian")):
        sampling = resolve_sampling({"seed": job, "max_new_tokens": FRAMES + 1})
        engine.add(job, GenerationRequest(loaded.planner.custom_voice(speaker), sampling))
        engine.append_text(job, "hello world" if job else "hi")
        engine.end_text(job)
    while engine.busy:
        for progress in engine.step():
            parts[progress.job].append(progress.codes)
    return [torch.cat(codes, -1) for codes in parts]
