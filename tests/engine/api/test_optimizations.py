"""`enable_streaming_optimizations`: the streaming fork's options, conflicts refused, and a CPU."""

from __future__ import annotations

import inspect
import logging
from dataclasses import fields
from typing import Any

import pytest
import torch

import engine
from engine.api.optimizations import COMPILE_MODES, Optimizations, wanted
from tests.engine.support.random_inputs import codes
from tests.engine.support.tiny_models import tiny_directory, tiny_model

DEFAULTS = {
    "decode_window_frames": 80, "use_compile": True, "use_cuda_graphs": True, "compile_mode": "reduce-overhead",
    "use_fast_codebook": False, "compile_codebook_predictor": True, "use_codebook_cuda_graph": False,
    "capture_async_graph": False, "use_paged_engine": False, "paged_gpu_memory_utilization": 0.3,
    "paged_enforce_eager": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return engine.Qwen3TTSModel.from_pretrained(str(tiny_directory("custom_voice")), device="cpu", slots=1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return engine.Qwen3TTSTokenizer.from_pretrained(str(tiny_directory()), device="cpu")


def defaults(function: Any) -> dict[str, Any]:
    return {name: each.default for name, each in inspect.signature(function).parameters.items() if name != "self"}


def test_optimization_signatures_equal_those_of_the_streaming_fork() -> None:
    model, tokenizer = engine.Qwen3TTSModel, engine.Qwen3TTSTokenizer
    assert list(defaults(model.enable_streaming_optimizations).items()) == list(DEFAULTS.items())
    assert {field.name: field.default for field in fields(Optimizations)} == DEFAULTS
    assert defaults(model.capture_codebook_cuda_graph) == {"warmup_runs": 3}
    five = ("decode_window_frames", "use_compile", "use_cuda_graphs", "compile_mode", "capture_async_graph")
    assert defaults(tokenizer.enable_streaming_optimizations) == {name: DEFAULTS[name] for name in five}
    for decode in (tokenizer.decode_streaming, tokenizer.decode_streaming_batch):
        assert list(defaults(decode).items())[1:] == [("use_optimized", True), ("pad_to_size", None)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"decode_window_frames": 0}, "decode_window_frames must be between 1"),
        ({"decode_window_frames": 8.0}, "whole number"),
        ({"compile_mode": "max-autotun"}, "did you mean 'max-autotune'"),
        ({"compile_mode": None}, "unknown compile_mode None"),
        ({"use_compile": 1}, "use_compile must be True or False"),
        ({"paged_gpu_memory_utilization": 1.5}, "paged_gpu_memory_utilization"),
        ({"use_codebook_cuda_graph": True}, "is a graph already"),
        ({"use_codebook_cuda_graph": True, "compile_mode": "max-autotune"}, "is a graph already"),
        ({"capture_async_graph": True, "use_cuda_graphs": False}, "conflicts with use_cuda_graphs=False"),
    ],
)
def test_enable_optimizations_rejects_invalid_options(model: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.enable_streaming_optimizations(**given)
    assert model.optimizations is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, {"kernels": "auto", "graphs": True, "half_codec": True}),
        ({"use_cuda_graphs": False}, {"graphs": False}),
        ({"use_compile": False}, {"kernels": "auto", "half_codec": False, "codec_alone": False}),
        ({"compile_codebook_predictor": False}, {"kernels": "plain", "codec_alone": True}),
        ({"compile_mode": "default"}, {"kernels": "compiled", "inductor_mode": "default"}),
        ({"compile_mode": "max-autotune"}, {"kernels": "compiled", "inductor_mode": "max-autotune-no-cudagraphs"}),
        ({"use_codebook_cuda_graph": True, "compile_codebook_predictor": False}, {"predictor_graph": True}),
        ({"use_codebook_cuda_graph": True, "compile_mode": "default"}, {"predictor_graph": True}),
    ],
)
def test_wanted_maps_options_to_acceleration_options(given: dict[str, Any], meant: dict[str, Any]) -> None:
    ours = wanted(Optimizations(**given))
    assert {name: getattr(ours, name) for name in meant} == meant
    assert "graph" not in Optimizations(**given).inductor_mode.replace("no-cudagraphs", "")


def test_enable_optimizations_on_cpu_logs_reason_and_keeps_audio(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    greedy = {"do_sample": False, "subtalker_dosample": False, "max_new_tokens": 4}
    before, _ = model.generate_custom_voice("hi", "ryan", **greedy)
    with caplog.at_level(logging.INFO, "engine"):
        assert model.enable_streaming_optimizations(decode_window_frames=40) is model
    assert "on the cpu nothing is compiled or captured" in caplog.text
    assert model.optimizations == Optimizations(decode_window_frames=40)
    after, _ = model.generate_custom_voice("hi", "ryan", **greedy)
    assert (before[0] == after[0]).all()
    model.optimizations = None


@pytest.mark.parametrize("mode", COMPILE_MODES)
def test_enable_optimizations_accepts_every_compile_mode_on_cpu(model: Any, mode: str) -> None:
    assert model.enable_streaming_optimizations(compile_mode=mode, compile_codebook_predictor=False) is model
    model.optimizations = None


def test_explicit_cuda_graph_is_rejected_on_cpu(model: Any, tokenizer: Any) -> None:
    for given in (
        {"use_codebook_cuda_graph": True, "compile_codebook_predictor": False},
        {"capture_async_graph": True},
    ):
        with pytest.raises(ValueError, match="needs an NVIDIA GPU; this model is on the cpu"):
            model.enable_streaming_optimizations(**given)
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        model.capture_codebook_cuda_graph()
    with pytest.raises(ValueError, match="needs an NVIDIA GPU; this model is on the cpu"):
        tokenizer.enable_streaming_optimizations(capture_async_graph=True)


def test_enable_optimizations_rejects_open_stream(model: Any) -> None:
    stream = model.stream_generate_custom_voice("hello world", "ryan", emit_every_frames=1, max_frames=9)
    next(stream)
    with pytest.raises(RuntimeError, match="close all"):
        model.enable_streaming_optimizations()
    stream.close()
    assert model.enable_streaming_optimizations() is model
    model.optimizations = None


# --- the codec by itself ----------------------------------------------------------------------------------------


def test_decode_streaming_decodes_the_window_without_padding(tokenizer: Any) -> None:
    assert tokenizer.enable_streaming_optimizations(decode_window_frames=30) is tokenizer
    given = torch.from_numpy(codes(2, 30, 4)).mT  # [2, 30, 16]
    with torch.inference_mode():
        exact = tiny_model().decoder.decode(given.mT)
    (wave,), rate = tokenizer.decode_streaming(given[0], pad_to_size=80)
    assert rate == 24_000
    assert abs(wave - exact[0].numpy()).max() < 1e-4
    ragged = given.clone()
    ragged[1, :12] = -1  # padded on the left, as the streaming fork pads
    waves, _ = tokenizer.decode_streaming_batch(ragged, use_optimized=False)
    assert [len(each) for each in waves] == [30 * 1920, 18 * 1920]
    with torch.inference_mode():
        alone = tiny_model().decoder.decode(given[1:, 12:].mT)[0].numpy()
    assert abs(waves[1] - alone).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("decode_streaming", {"audio_codes": torch.zeros(5, 8, dtype=torch.int64)}, r"\[frames, 16\]"),
        ("decode_streaming_batch", {"audio_codes": torch.zeros(5, 16, dtype=torch.int64)}, r"\[items, frames, 16\]"),
        ("decode_streaming", {"audio_codes": torch.zeros(5, 16, dtype=torch.int64), "pad_to_size": 4}, "pad_to_size=4"),
        ("decode_streaming", {"audio_codes": torch.full((5, 16), 2048)}, "below 2048"),
    ],
)
def test_decode_streaming_rejects_invalid_windows(tokenizer: Any, name: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(tokenizer, name)(**given)
