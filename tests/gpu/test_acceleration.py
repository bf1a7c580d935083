"""The fast paths on a GPU with full-size random weights: graphs equal eager calls, fused kernels equal plain torch.

python -m pytest tests/gpu/test_acceleration.py -m gpu -s
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.acceleration.select import AccelerationOptions, AccelerationResult, accelerate
from engine.checkpoint.loaded import LoadedCheckpoint
from engine.prompt.sampling_params import resolve_sampling
from engine.runtime.model_runner import Runner
from engine.scheduler.chunking import EmissionPlan
from engine.scheduler.engine import Engine, GenerationRequest
from tests.gpu.time_start import starts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
TEXT = "the washing machine has finished, and it will rain at six o'clock"
FRAMES = 24
SLOTS = 8
PLAN = EmissionPlan((1, 1, 2, 4, 8))


def opened(loaded: LoadedCheckpoint, kernels: str, graphs: bool) -> tuple[Engine, AccelerationResult]:
    runner = Runner(loaded.model, SLOTS, 512)
    pace = accelerate(runner, AccelerationOptions(kernels, graphs))
    return Engine(runner, loaded.tokenizer), pace


def speak(
    engine: Engine, loaded: LoadedCheckpoint, jobs: int, streaming: bool = True
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return codes [16, FRAMES] and wave of jobs that start together, each with its seed; text streamed or whole."""
    for number in range(jobs):
        sampling = resolve_sampling({"seed": number, "max_new_tokens": FRAMES + 1, "min_new_tokens": FRAMES + 1})
        engine.add(
            number, GenerationRequest(loaded.planner.custom_voice("ryan", streaming=streaming), sampling, emission=PLAN)
        )
        engine.append_text(number, TEXT)
        engine.end_text(number)
    parts: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {number: [] for number in range(jobs)}
    while engine.busy:
        for progress in engine.step():
            parts[progress.job].append((progress.codes, progress.wave))
    return [(torch.cat([c for c, _ in made], -1), torch.cat([w for _, w in made])) for made in parts.values()]


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_graphs_of_every_bucket_equal_eager_calls(loaded: LoadedCheckpoint, kernels: str) -> None:
    captured, pace = opened(loaded, kernels, graphs=True)
    eager, _ = opened(loaded, kernels, graphs=False)
    assert pace.kernels == kernels
    for jobs, streaming in ((1, True), (2, False), (4, True), (8, True)):
        for (codes, wave), (codes_too, wave_too) in zip(
            speak(captured, loaded, jobs, streaming), speak(eager, loaded, jobs, streaming), strict=True
        ):
            assert codes.shape == (16, FRAMES)
            assert torch.equal(codes, codes_too), (kernels, jobs)
            assert (wave - wave_too).abs().max() < 2e-2, (kernels, jobs)  # the plain codec's algorithms may differ


def test_fused_frames_equal_eager_in_float32(exact: LoadedCheckpoint) -> None:
    from engine.acceleration.fused import FusedDecodeStep

    for jobs in (1, 3, 8):
        plain = speak(Engine(Runner(exact.model, SLOTS, 512), exact.tokenizer), exact, jobs)
        runner = Runner(exact.model, SLOTS, 512)
        runner.strategies = replace(runner.strategies, step=FusedDecodeStep(exact.model, runner.state))
        fused = speak(Engine(runner, exact.tokenizer), exact, jobs)
        same = torch.stack([(a == b).float().mean() for (a, _), (b, _) in zip(plain, fused, strict=True)])
        print(f"\n{jobs} jobs, float32: {same.min().item():.4f} of the codes are equal")
        assert same.min() > 0.5  # one near-tie changes all that follows
        assert same.max() == 1


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_step_synchronizes_only_to_read_results(loaded: LoadedCheckpoint, kernels: str) -> None:
    engine, _ = opened(loaded, kernels, graphs=True)
    expected = speak(engine, loaded, 3, streaming=False)  # makes the voice's prefix too
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = speak(engine, loaded, 3, streaming=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(ours, theirs) for (ours, _), (theirs, _) in zip(again, expected, strict=True))


def test_fused_codes_of_a_job_are_the_same_in_any_larger_batch(loaded: LoadedCheckpoint) -> None:
    engine, _ = opened(loaded, "fused", graphs=True)
    alone = speak(engine, loaded, 1)[0][0]
    assert torch.equal(speak(engine, loaded, 1)[0][0], alone)
    equal = {jobs: (speak(engine, loaded, jobs)[0][0] == alone).float().mean().item() for jobs in (2, 4, 8)}
    two, four, eight = (speak(engine, loaded, jobs) for jobs in (2, 4, 8))
    print(f"\ncodes equal to those spoken alone, by jobs: {equal}")
    for few in (two, four):  # tensor cores, all of them
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(few, eight, strict=False))


def test_no_kernel_is_compiled_after_precompile(custom_voice: Path) -> None:
    first, second = starts(custom_voice, SLOTS)
    print(first, second)
    assert first["compiled"] == first["kernels"] == second["kernels"] > 100
    assert first["compiled_later"] == first["libraries_later"] == 0
    assert second["compiled"] == second["compiled_later"] == second["libraries_later"] == 0
