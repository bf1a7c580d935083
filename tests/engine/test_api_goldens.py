"""Texts in, codes and waves out: our public API against what the reference package's gave for the same calls."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import engine
from tests.engine.api_trace import codes_of
from tests.engine.goldens_format import API_CASES, API_EOS_GAIN, API_SAMPLES, API_WAVE_STRIDE, DIRECTORY
from tests.engine.tiny_models import tiny_directory


@cache
def model(kind: str, size: str) -> Any:
    directory = str(tiny_directory(kind, size, API_EOS_GAIN))
    return engine.Qwen3TTSModel.from_pretrained(directory, device_map="cpu", dtype=torch.float32)


@pytest.mark.parametrize("case", API_CASES)
def test_the_same_call_gives_the_same_speech(case: str) -> None:
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
