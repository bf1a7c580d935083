"""The streaming fork's ways on a GPU with full-size random weights: each equals the plain one, for every option.

python -m pytest tests/gpu/test_fork_gpu.py -m gpu -s -n 0
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.acceleration.predictor_graph import DrawGraphs
from engine.runtime.decode_step import EagerDecodeStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
TEXT = "the washing machine has finished, and it will rain at six o'clock"
FRAMES = 40
STREAM: dict[str, Any] = {"max_frames": FRAMES, "min_new_tokens": FRAMES + 1, "seed": 5, "emit_every_frames": 8}
NARROW = {"windowed_decode": True, "decode_window_frames": 20}


@pytest.fixture
def model(custom_voice: Path) -> Any:
    return engine.Qwen3TTSModel.from_pretrained(str(custom_voice), slots=4, max_positions=512)


def speak(model: Any, **how: Any) -> np.ndarray:
    return np.concatenate([wave for wave, _ in model.stream_generate_custom_voice(TEXT, "ryan", **STREAM | how)])


def likeness_db(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(10 * np.log10(np.square(theirs).mean() / max(np.square(ours - theirs).mean(), 1e-20)))


@pytest.mark.parametrize(
    "given",
    [
        {"compile_codebook_predictor": False, "use_compile": False},
        {"compile_codebook_predictor": False, "use_compile": False, "use_cuda_graphs": False},
        {"compile_codebook_predictor": False, "use_cuda_graphs": False, "use_codebook_cuda_graph": True},
        {"compile_codebook_predictor": False},
    ],
    ids=str,
)
def test_options_without_fused_frames_keep_the_codes(model: Any, given: dict[str, Any]) -> None:
    plain = speak(model)
    assert model.enable_streaming_optimizations(**given) is model
    step = model.engine._engine._runner.strategies.step
    assert isinstance(step, EagerDecodeStep)
    assert isinstance(step.draw, DrawGraphs) == bool(given.get("use_codebook_cuda_graph"))
    found = likeness_db(speak(model), plain)
    print(f"\n{given}: {found:.1f} dB")
    assert found > 30  # the fused codec computes in float16


def test_default_optimizations_capture_windows(model: Any) -> None:
    model.enable_streaming_optimizations(decode_window_frames=20)
    exact, windowed = speak(model), speak(model, **NARROW)
    operation_by_operation = speak(model, **NARROW, use_optimized_decode=False)
    print(f"\nwindows of 20 frames: {likeness_db(windowed, exact):.1f} dB from exact")
    assert likeness_db(windowed, operation_by_operation) > 30


def test_windows_are_captured_during_async_decode_of_another_stream(model: Any) -> None:
    expected = speak(model, **NARROW)
    beside = {"async_decode": True, "max_frames": 300, "min_new_tokens": 301, "emit_every_frames": 1}
    alone = speak(model, **beside)
    plain_frames = {"use_compile": False, "compile_codebook_predictor": False}
    model.enable_streaming_optimizations(decode_window_frames=20, **plain_frames)
    other = model.stream_generate_custom_voice(TEXT, "ryan", **STREAM | beside)
    first, _ = next(other)
    with ThreadPoolExecutor(1) as thread:
        rest = thread.submit(lambda: [wave for wave, _ in other])
        assert likeness_db(speak(model, **NARROW), expected) > 30
        captured_in_time = not rest.done()
        heard = np.concatenate([first, *rest.result()])
    assert captured_in_time
    assert likeness_db(heard, alone) > 30


def test_async_decode_on_same_or_another_gpu_has_same_audio(model: Any, custom_voice: Path) -> None:
    plain = speak(model)
    assert likeness_db(speak(model, async_decode=True), plain) > 60
    if torch.cuda.device_count() > 1:
        other = engine.Qwen3TTSModel.from_pretrained(str(custom_voice), slots=4, codec_device="cuda:1")
        assert likeness_db(speak(other, async_decode=True), plain) > 60


def test_captured_predictor_codes_equal_eager(model: Any) -> None:
    predictor = model.code_predictor
    ways = [{"seed": 1}, {"do_sample": False}, {"temperature": 0.5, "top_k": 9, "top_p": 0.8, "seed": 2}]
    inputs = torch.randn(8, 2, predictor.width, generator=torch.Generator().manual_seed(0))
    cases = [(rows, way) for rows in (1, 2, 8) for way in ways]
    eager = [predictor.generate_fast(inputs[:rows], 15, **way) for rows, way in cases]
    model.capture_codebook_cuda_graph(warmup_runs=3)
    for (rows, way), expected in zip(cases, eager, strict=True):
        assert torch.equal(predictor.generate_fast(inputs[:rows], 15, **way), expected), (rows, way)
