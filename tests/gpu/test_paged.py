"""The paged engine on a GPU with full-size random weights: the codes of the slot engine in each mode, and its speed.

python -m pytest tests/gpu/test_paged.py -m gpu -s -n 0

Frames alone, without the codec, which is the same everywhere.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from engine.acceleration.capture import frame_step, text_input
from engine.acceleration.flash import FlashAttention, FlashTalker, flash_strategies
from engine.acceleration.verify import LEAST_COSINE, frame_cosine
from engine.api.paged_engine import PagedOptions, paged_runner
from engine.checkpoint.loaded import LoadedCheckpoint
from engine.model.talker import BatchRows
from engine.paged.kv_cache import PoolSize
from engine.paged.runner import PagedRunner, PrefillChunk
from engine.prompt.sampling_params import SamplingParams
from engine.runtime.cuda_graphs import FrameGraphs
from engine.runtime.model_runner import Runner
from engine.runtime.prefill import PrefillRequest, VoiceVectors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
SLOTS, ROOM = 32, 1024
PROMPT_IDS = 280
LENGTH = 512  # what graphs of plain frames read
SMALL, LARGE = PoolSize(SLOTS * ROOM // 16, 16), PoolSize(SLOTS * ROOM // 256, 256)
HAS_FLASH = importlib.util.find_spec("flash_attn") is not None
NEEDS_FLASH = pytest.mark.skipif(not HAS_FLASH, reason="flash-attn is not installed")


@dataclass(frozen=True)
class Made:
    """Codes [jobs, frames, 16], milliseconds of a frame after the first few, and of reading the prompts."""

    codes: torch.Tensor
    frame_ms: float
    prompts_ms: float


def rows(loaded: LoadedCheckpoint) -> Runner:
    return Runner(loaded.model, SLOTS, ROOM)


def blocks(loaded: LoadedCheckpoint, size: PoolSize = SMALL, slots: int = SLOTS) -> PagedRunner:
    return PagedRunner(loaded.model, slots, min(ROOM, size.positions), size)


@torch.inference_mode()
def fused(runner: Runner) -> Runner:
    from engine.acceleration.fused import FusedDecodeStep

    step = FusedDecodeStep(runner.model, runner.state)
    assert frame_cosine(runner, step) > LEAST_COSINE
    runner.strategies = replace(runner.strategies, step=step)
    return runner


@torch.inference_mode()
def flash(runner: PagedRunner) -> Runner:
    runner.strategies = flash_strategies(runner, runner.strategies)
    return runner


@torch.inference_mode()
def graphed(runner: Runner, batches: Sequence[int]) -> Runner:
    """Frame graphs of some batch sizes only, which spares the time of the others."""
    graphs, step = FrameGraphs(runner.device), runner.strategies.step
    length = LENGTH if step.reads_length else 0
    for batch in batches:
        slots = torch.full((batch,), runner.slots, device=runner.device)
        graphs.capture((batch, length), (slots, text_input(runner, batch)), partial(frame_step, runner, step, length))
    runner.strategies = replace(runner.strategies, frame_graphs=graphs)
    return runner


def entry(loaded: LoadedCheckpoint, job: int) -> PrefillRequest:
    """A prompt of its own length and content for each job."""
    words = torch.randint(0, 50_000, (PROMPT_IDS + job,), generator=torch.Generator().manual_seed(job)).tolist()
    prompt = loaded.planner.custom_voice("ryan", streaming=False).begin(words, True)
    return PrefillRequest(job, prompt, VoiceVectors(), SamplingParams(min_new_tokens=1000), job)


@torch.inference_mode()
def speak(runner: Runner, loaded: LoadedCheckpoint, jobs: int, frames: int) -> Made:
    """The same jobs in every runner, as the engine drives them but never ending."""
    entries = [entry(loaded, job) for job in range(jobs)]
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    assert runner.admit([len(each.prompt.head) for each in entries]) == jobs
    runner.prefill(entries)
    torch.cuda.synchronize()
    prompts_s = time.perf_counter() - began_s
    slots, pad, made = list(range(jobs)), loaded.planner.ids.tts_pad, []
    for frame in range(frames):
        if frame == 4:
            torch.cuda.synchronize()
            began_s = time.perf_counter()
        if frame:
            assert len(runner.fitting(slots)) == jobs
        made.append(runner.advance(slots, [each.first_text for each in entries] if frame == 0 else [pad] * jobs))
    torch.cuda.synchronize()
    frame_s = (time.perf_counter() - began_s) / (frames - 4)
    codes = torch.tensor([one.codes() for one in made]).transpose(0, 1)
    for slot in slots:
        runner.release(slot)
        runner._next[slot] = 0
    runner.fitting([])
    return Made(codes, frame_s * 1000, prompts_s * 1000)


def share(ours: Made, theirs: Made) -> float:
    return (ours.codes == theirs.codes).float().mean().item()


def same(runner: Runner) -> Runner:
    return runner


@pytest.mark.parametrize(
    ("size", "way"),
    [(SMALL, same), (SMALL, fused), (LARGE, fused), pytest.param(LARGE, flash, marks=NEEDS_FLASH)],
    ids=["plain-16", "fused-16", "fused-256", "flash-256"],
)
def test_paged_codes_equal_slot_codes(loaded: LoadedCheckpoint, size: PoolSize, way: Callable[..., Runner]) -> None:
    """Compare all codes; flash-attn rounds differently, so with it the codes of a random model soon diverge."""
    jobs, frames = 8, 12
    theirs = speak(same(rows(loaded)) if way is flash else way(rows(loaded)), loaded, jobs, frames)
    eager = way(blocks(loaded, size))
    ours = speak(eager, loaded, jobs, frames)
    replayed = speak(graphed(way(blocks(loaded, size)), [jobs]), loaded, jobs, frames)
    known = speak(eager, loaded, jobs, frames)  # every prompt's full blocks are there, only its rest is read
    print(
        f"\n{way.__name__}, blocks of {size.block_positions}: codes equal to rows {share(ours, theirs):.4f}, graphs to "
        f"eager {share(replayed, ours):.4f}, known prompts to new {share(known, ours):.4f}; "
        f"prompts {ours.prompts_ms:.1f} ms new, {known.prompts_ms:.1f} ms known, rows {theirs.prompts_ms:.1f} ms"
    )
    assert share(replayed, ours) == 1
    assert way is flash or share(ours, theirs) == 1
    assert eager.paging.pool.used == 0


@NEEDS_FLASH
@torch.inference_mode()
def test_flash_attention_is_as_close_to_float32_as_eager_slots(
    loaded: LoadedCheckpoint, exact: LoadedCheckpoint
) -> None:
    """The talker over prompts of unequal lengths and steps after them, of the same inputs in each way."""
    lengths, steps = (300, 41, 256, 7), 8
    noise = torch.Generator("cuda").manual_seed(0)
    inputs = torch.randn(len(lengths), max(lengths) + steps, 1024, generator=noise, device="cuda").bfloat16()
    runner = blocks(loaded, LARGE)
    for slot, length in enumerate(lengths):
        runner.cache.set_rows({slot: runner.paging.pool.allocate(runner.paging.count(length + steps))})
    talker = FlashTalker(runner, FlashAttention.load())
    talker.read([PrefillChunk(inputs[slot, :length], slot, 0) for slot, length in enumerate(lengths)])
    slots = torch.arange(len(lengths), device="cuda")
    starts = torch.tensor(lengths, device="cuda")
    after = [talker.step(inputs[slots, starts + n], BatchRows(slots, starts + n, 512)) for n in range(steps)]
    ours = torch.stack([scores for _, scores in after], dim=1)
    theirs, truth = (scored(each, inputs, lengths, steps) for each in (loaded, exact))
    flash_error, plain_error = ((each.float() - truth).square().mean().sqrt() for each in (ours, theirs))
    agreed, plainly = ((each.argmax(-1) == truth.argmax(-1)).float().mean() for each in (ours, theirs))
    print(
        f"\nerror of the scores to float32: flash-attn {flash_error:.4f}, rows {plain_error:.4f}; "
        f"the same best code: {agreed:.3f}, {plainly:.3f}"
    )
    assert flash_error < 1.2 * plain_error


def scored(loaded: LoadedCheckpoint, inputs: torch.Tensor, lengths: Sequence[int], steps: int) -> torch.Tensor:
    """Scores [prompts, steps, V] after each prompt, over rows in plain torch."""
    talker = loaded.model.talker
    cache = talker.allocate(1, inputs.shape[1])
    slot = torch.zeros(1, dtype=torch.int64, device=inputs.device)
    found = []
    for row, length in enumerate(lengths):
        part = inputs[row : row + 1].to(talker.head.weight.dtype)
        talker(part[:, :length], cache, BatchRows(slot, slot, inputs.shape[1]))
        after = [
            talker.step(part[:, length + n], cache, BatchRows(slot, slot + length + n, inputs.shape[1]))
            for n in range(steps)
        ]
        found.append(torch.stack([scores[0] for _, scores in after]))
    return torch.stack(found)


def test_preempted_sequence_resumes_unchanged(loaded: LoadedCheckpoint) -> None:
    """One sequence moves to host memory and back between two frames."""
    runner = fused(blocks(loaded))
    assert isinstance(runner, PagedRunner)
    speak(runner, loaded, 2, 1)  # what is known of a prompt is not read again, and then sums round otherwise
    exact = speak(runner, loaded, 2, 16)
    real, took_ms = runner.fitting, []

    def fitting(slots: Sequence[int]) -> Sequence[int]:
        going = real(slots)
        if len(took_ms) < 3 and slots:
            took_ms.append(moved_ms(runner, 1))
        return going

    runner.fitting = fitting  # type: ignore[method-assign]
    moved = speak(runner, loaded, 2, 16)
    print(f"\na sequence of {PROMPT_IDS} positions to host memory and back: {took_ms[-1]:.1f} ms")
    assert torch.equal(moved.codes, exact.codes)


@torch.inference_mode()
def moved_ms(runner: PagedRunner, slot: int) -> float:
    """Stow a slot's contents, spoil its blocks, and bring the contents back into others."""
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    old = list(runner.paging.blocks(slot))
    contents = runner.cache.read(old)
    runner.paging.free(slot)
    runner.cache.pool[:, :, old] = 1.0
    spare = runner.paging.pool.allocate(3)
    runner.paging.allocate(slot, [], len(old) * runner.cache.block_positions)
    runner.paging.pool.free(spare)
    runner.cache.write(runner.paging.blocks(slot), contents)
    runner.cache.set_rows({slot: runner.paging.blocks(slot)})
    torch.cuda.synchronize()
    return (time.perf_counter() - began_s) * 1000


def test_frame_rate_of_slots_and_blocks_is_reported(loaded: LoadedCheckpoint) -> None:
    batches, frames = (1, 8, 32), 40
    ways: dict[str, Callable[[], Runner]] = {
        "rows, fused": lambda: fused(rows(loaded)),
        "blocks of 16, fused": lambda: fused(blocks(loaded)),
        "blocks of 256, fused": lambda: fused(blocks(loaded, LARGE)),
        "rows, plain": lambda: rows(loaded),
        "blocks of 16, plain": lambda: blocks(loaded),
    }
    if HAS_FLASH:
        ways["blocks of 256, flash-attn"] = lambda: flash(blocks(loaded, LARGE))
    print(f"\n{torch.cuda.get_device_name()}, 0.6B, bfloat16, graphs, {PROMPT_IDS} to 352 positions, no codec:")
    for name, make in ways.items():
        runner, figures = graphed(make(), batches), []
        for jobs in batches:
            frame_ms = speak(runner, loaded, jobs, frames).frame_ms
            figures.append(f"{jobs}: {frame_ms:.2f} ms, {jobs * 80 / frame_ms:.0f} s/s")
        print(f"  {name:26} {'; '.join(figures)}", flush=True)
        del runner
        torch.cuda.empty_cache()


def test_paged_engine_opens_and_captures_every_batch_size(loaded: LoadedCheckpoint) -> None:
    """As the API opens it, but for few slots, and plain: the fused codec takes a minute to compile."""
    options = PagedOptions(gpu_memory_utilization=0.05, kernels="plain", slots=2, max_positions=ROOM)
    began_s = time.perf_counter()
    runner = paged_runner(loaded.model, options)
    opened_s = time.perf_counter() - began_s
    graphs = runner.strategies.frame_graphs
    assert graphs is not None
    assert len(graphs) == 2 * 3  # batches of 1 and 2, of 256, 512 and 1024 positions
    assert runner.paging.pool.blocks == 2 * ROOM // 16
    print(f"\nopened in {opened_s:.1f} s: {runner.paging.pool.blocks} blocks, {len(graphs)} frame graphs")
