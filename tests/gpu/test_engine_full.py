"""The whole engine on a GPU with full-size random weights: it speaks, streams, and does not mix its jobs up.

python -m pytest tests/gpu/test_engine_full.py -m gpu -s
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from engine.checkpoint.load import LoadOptions
from engine.checkpoint.loaded import LoadedCheckpoint, load_checkpoint
from engine.prompt.planner import CloneVoice
from engine.prompt.sampling_params import resolve_sampling
from engine.runtime.model_runner import Runner
from engine.runtime.prefill import VoiceVectors
from engine.scheduler.chunking import EmissionPlan
from engine.scheduler.engine import ChunkOutput, Engine, GenerationRequest
from engine.testing.tiny_checkpoint import build_full

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
TEXT = "the washing machine has finished, and it will rain at six o'clock"
FRAMES = 60


@pytest.fixture(scope="module", params=["1b7", "0b6"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_full(tmp_path_factory.mktemp(request.param), request.param)


@dataclass
class Spoken:
    codes: torch.Tensor
    wave: torch.Tensor
    first_s: float
    total_s: float


def utterance(loaded: LoadedCheckpoint, seed: int) -> GenerationRequest:
    sampling = resolve_sampling({"seed": seed, "max_new_tokens": FRAMES + 1, "min_new_tokens": FRAMES + 1})
    return GenerationRequest(
        loaded.planner.clone(voice_of(seed), "english"), sampling, emission=EmissionPlan((1, 1, 2, 4, 8))
    )


def voice_of(seed: int) -> CloneVoice:
    return CloneVoice(f"x-vector {seed}")


def speak(engine: Engine, loaded: LoadedCheckpoint, seeds: range) -> dict[int, Spoken]:
    """Jobs begun together, numbered by their seeds."""
    width = loaded.model.config.talker.transformer.hidden_size
    began_s, first_s, parts = time.perf_counter(), {}, {seed: list[ChunkOutput]() for seed in seeds}
    for seed in seeds:
        vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
        engine.add(seed, replace(utterance(loaded, seed), voice=VoiceVectors(vector)))
        engine.append_text(seed, TEXT)
        engine.end_text(seed)
    while engine.busy:
        for progress in engine.step():
            first_s.setdefault(progress.job, time.perf_counter() - began_s)
            parts[progress.job].append(progress)
    total_s = time.perf_counter() - began_s
    return {
        seed: Spoken(torch.cat([p.codes for p in got], -1), torch.cat([p.wave for p in got]), first_s[seed], total_s)
        for seed, got in parts.items()
    }


def test_engine_generates_independent_audio_for_each_job(directory: Path) -> None:
    loaded = load_checkpoint(directory, LoadOptions())
    engine = Engine(Runner(loaded.model, 8, 1024), loaded.tokenizer)
    speak(engine, loaded, range(1, 2))
    alone = speak(engine, loaded, range(1, 2))[1]
    together = speak(engine, loaded, range(1, 9))
    for spoken in (alone, *together.values()):
        assert spoken.codes.shape == (16, FRAMES)
        assert spoken.wave.shape == (1920 * FRAMES,)
        assert spoken.wave.isfinite().all()
        assert spoken.wave.std() > 0
    again = speak(engine, loaded, range(1, 2))[1]
    assert torch.equal(again.codes, alone.codes)
    assert torch.equal(again.wave, alone.wave)
    same = (together[1].codes == alone.codes).float().mean().item()
    with torch.inference_mode():
        whole = loaded.model.decoder.decode(alone.codes[None].cuda())[0].cpu()
    difference = (whole - alone.wave).abs().max().item()
    print(
        f"\n{directory.name}, eager, {torch.cuda.get_device_name()}: first audio {alone.first_s * 1000:.0f} ms, "
        f"{alone.total_s / FRAMES * 1000:.1f} ms a frame alone, {together[1].total_s / FRAMES * 1000:.1f} ms with 8; "
        f"codes equal alone and among 8: {same:.3f}; steps against the whole {difference:.1e}"
    )
    assert difference < 1e-2  # TF32 convolutions; exact in float32, see test_model_full
