"""The frame's kernels in Triton's interpreter, without a GPU: they draw the codes of the plain frame.

Slow, so few frames; `make kernels` installs Triton and runs them.
"""

from __future__ import annotations

import os
from functools import cache

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are imported
pytest.importorskip("triton")

from engine.acceleration.fused import FusedDecodeStep
from engine.checkpoint.load import LoadOptions
from engine.checkpoint.loaded import LoadedCheckpoint, load_checkpoint
from engine.prompt.sampling_params import resolve_sampling
from engine.runtime.model_runner import Runner
from engine.scheduler.engine import Engine, GenerationRequest
from tests.engine.support.tiny_models import tiny_directory

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="tests/gpu has the compiled kernels"),
]
TEXT = "the washing machine has finished"
SAMPLINGS = {
    "model defaults": {},
    "greedy": {"do_sample": False, "subtalker_dosample": False},
    "nucleus and penalty": {
        "top_p": 0.8, "subtalker_top_p": 0.7, "repetition_penalty": 1.3, "repetition_penalty_window": 2
    },
}  # fmt: skip


@cache
def loaded(size: str) -> LoadedCheckpoint:
    options = LoadOptions(device="cpu", dtype=torch.float32, fold_text=True)
    return load_checkpoint(tiny_directory("custom_voice", size), options)


def spoken(runner: Runner, size: str, jobs: int, frames: int, sampling: dict[str, object]) -> list[torch.Tensor]:
    """Codes [16, frames] of jobs with texts, and so positions, of their own."""
    model = loaded(size)
    engine, codes = Engine(runner, model.tokenizer), {job: [] for job in range(jobs)}
    for job in range(jobs):
        chosen = {"seed": job, "max_new_tokens": frames + 1, "min_new_tokens": frames + 1, **sampling}
        engine.add(
            job, GenerationRequest(model.planner.custom_voice("ryan", streaming=job % 2 == 0), resolve_sampling(chosen))
        )
        engine.append_text(job, TEXT)
        engine.end_text(job)
    while engine.busy:
        for progress in engine.step():
            codes[progress.job].append(progress.codes)
    return [torch.cat(parts, -1) for parts in codes.values()]


def runner(size: str) -> Runner:
    return Runner(loaded(size).model, 4, 128)


def fused(size: str) -> Runner:
    made = runner(size)
    made.frame = FusedDecodeStep(made.model, made.state)
    return made


@pytest.mark.parametrize("size", ["1b7", "0b6"])
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_fused_frame_of_one_job_equals_eager(size: str, sampling: dict[str, object]) -> None:
    for ours, theirs in zip(
        spoken(fused(size), size, 1, 4, sampling), spoken(runner(size), size, 1, 4, sampling), strict=True
    ):
        assert ours.shape == (16, 4)
        assert torch.equal(ours, theirs)


def test_fused_frame_of_three_jobs_on_tensor_cores_equals_eager() -> None:
    for ours, theirs in zip(spoken(fused("1b7"), "1b7", 3, 2, {}), spoken(runner("1b7"), "1b7", 3, 2, {}), strict=True):
        assert ours.shape == (16, 2)
        assert torch.equal(ours, theirs)
