"""The public API against recorded codes and waves of the reference package for the same calls."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.api.inputs import texts_of
from tests.engine.support.api_trace import codes_of
from tests.engine.support.goldens_format import API_CASES, API_EOS_GAIN, API_SAMPLES, API_WAVE_STRIDE, DIRECTORY
from tests.engine.support.tiny_models import tiny_directory


@cache
def model(kind: str, size: str) -> Any:
    directory = str(tiny_directory(kind, size, API_EOS_GAIN))
    return engine.Qwen3TTSModel.from_pretrained(directory, device_map="cpu", dtype=torch.float32)


@pytest.mark.parametrize("case", API_CASES)
def test_generate_equals_the_reference_package(case: str) -> None:
    kind, size, method, given = API_CASES[case]
    greedy = {"do_sample": False, "subtalker_dosample": False, "max_new_tokens": API_SAMPLES}
    with codes_of(model(kind, size)) as codes:
        waves, rate = getattr(model(kind, size), method)(**given, **greedy)
    assert rate == 24_000
    with np.load(DIRECTORY / "api.npz") as goldens:
        theirs = {name.partition(".")[2]: goldens[name] for name in goldens.files if name.startswith(f"{case}.")}
    assert len(theirs) == 2 * len(waves)
    for item, wave in enumerate(waves):
        assert np.array_equal(codes[item].numpy(), theirs[f"codes{item}"])
        assert np.abs(wave[::API_WAVE_STRIDE] - theirs[f"wave{item}"]).max() < 1e-4


@pytest.mark.parametrize("how", [{}, {"async_decode": True}, {"windowed_decode": True}], ids=str)
@pytest.mark.parametrize("case", API_CASES)
def test_joined_streams_equal_the_reference_package(case: str, how: dict[str, Any]) -> None:
    kind, size, method, given = API_CASES[case]
    speaker, given = model(kind, size), given | {"text": texts_of(given["text"])}
    if kind == "base":
        heard = {name: given.pop(name) for name in ("ref_audio", "ref_text", "x_vector_only_mode") if name in given}
        given |= {"voice_clone_prompt": speaker.create_voice_clone_prompt(**heard)}
    at_once = inspect.signature(getattr(speaker, method)).parameters["non_streaming_mode"].default
    greedy = {"do_sample": False, "subtalker_dosample": False, "max_new_tokens": API_SAMPLES}
    wishes = {"non_streaming_mode": at_once, "emit_every_frames": 3, "repetition_penalty": 1.05} | given | greedy | how
    rounds = [waves for waves, _ in getattr(speaker, f"batch_stream_{method}")(**wishes, repetition_penalty_window=0)]
    with np.load(DIRECTORY / "api.npz") as goldens:
        for item, waves in enumerate(zip(*rounds, strict=True)):
            theirs, wave = goldens[f"{case}.wave{item}"], np.concatenate(waves)
            places = np.arange(0, len(wave), API_WAVE_STRIDE)
            assert len(theirs) == len(places)
            edge = 512 if "windowed_decode" in how else 0  # windows rise and fall
            inside = (places >= edge) & (places < len(wave) - edge)
            assert np.abs(wave[places] - theirs)[inside].max() < 1e-4
