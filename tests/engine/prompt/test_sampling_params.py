"""Sampling parameters: explicit over file over default, and one clear error for each mistake."""

import subprocess
import sys

import pytest

from engine.prompt.sampling_params import Draw, SamplingError, SamplingParams, resolve_sampling

FILE = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.8,
    "top_p": 1.0,
    "top_k": 40,
    "subtalker_dosample": True,
    "subtalker_temperature": 0.7,
    "subtalker_top_p": 0.95,
    "subtalker_top_k": 30,
    "max_new_tokens": 8192,
    "pad_token_id": 3,
}


def test_resolve_sampling_defaults_equal_the_reference() -> None:
    assert resolve_sampling({}) == SamplingParams(
        Draw(True, 0.9, 50, 1.0), Draw(True, 0.9, 50, 1.0), 1.05, 0, min_new_tokens=2, max_new_tokens=2048
    )


def test_resolve_sampling_prefers_explicit_then_file_then_default() -> None:
    params = resolve_sampling({"temperature": 0.5, "subtalker_top_k": 1, "top_k": None, "seed": 7}, FILE)
    assert params.talker == Draw(True, 0.5, 40, 1.0)
    assert params.predictor == Draw(True, 0.7, 1, 0.95)
    assert (params.max_new_tokens, params.min_new_tokens, params.seed) == (8192, 2, 7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"temperature": 0}, r"at least 0\.01; for greedy codes use do_sample=False"),
        ({"temperature": -1.0}, "do_sample=False"),
        ({"subtalker_temperature": 1e-9}, "subtalker_dosample=False"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"temperature": "warm"}, "temperature must be a number, not 'warm'"),
        ({"top_k": -1}, "top_k must be between 0"),
        ({"top_k": 5.5}, "top_k must be a whole number"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"top_p": 0}, "top_p must be"),
        ({"subtalker_top_p": 1.01}, "subtalker_top_p must be"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be"),
        ({"repetition_penalty_window": -5}, "repetition_penalty_window must be"),
        ({"max_new_tokens": 0}, "max_new_tokens must be between 1"),
        ({"max_new_tokens": 10**400}, "max_new_tokens must be between 1"),
        ({"top_p": float("inf")}, "top_p must be"),
        ({"min_new_tokens": -1}, "min_new_tokens must be"),
        ({"seed": 2**63}, "seed must be"),
        ({"seed": -1}, "seed must be"),
        ({"do_sample": 1}, "do_sample must be true or false"),
        ({"subtalker_dosample": "yes"}, "subtalker_dosample must be true or false"),
    ],
)
def test_resolve_sampling_rejects_invalid_values(given: dict[str, object], message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        resolve_sampling(given)


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({}, True),
        ({"top_k": 64}, True),
        ({"top_k": 65}, False),
        ({"subtalker_top_k": 0}, False),
        ({"subtalker_top_k": 0, "subtalker_dosample": False}, True),
        ({"top_p": 0.9}, False),
        ({"repetition_penalty_window": 100}, True),
        ({"repetition_penalty_window": 101}, False),
    ],
)
def test_fits_compares_parameters_with_sampler_limits(given: dict[str, object], fits: bool) -> None:
    assert resolve_sampling(given).fits(64, False, 100) == fits
    assert resolve_sampling(given).fits(None, True, 512)


def test_sampling_params_do_not_import_torch() -> None:
    code = "import sys, engine.prompt.sampling_params; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
