"""Sampling parameters of a job, validated, under the reference's names and without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .languages import suggest
from .validation import check_number

MIN_TEMPERATURE = 0.01  # below, scaled logits overflow; greedy is what is meant


class SamplingError(ValueError):
    """A sampling parameter that cannot be used; the message names it as the caller wrote it."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one id is drawn from its logits. `top_k` 0 and `top_p` 1 keep everything."""

    do_sample: bool = True
    temperature: float = 0.9
    top_k: int = 50
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Everything a job may choose about its codes.

    `max_new_tokens` counts group-0 samples as the reference does: N of them without an end make N - 1 frames.
    `penalty_window` 0 penalises every code of the job's history. `seed` None: the engine picks one. `end_ids` end the
    speech beside the model's own end; they are drawn as seldom or as often as without.
    """

    talker: Draw = Draw()
    predictor: Draw = Draw()
    repetition_penalty: float = 1.05
    penalty_window: int = 0
    min_new_tokens: int = 2
    max_new_tokens: int = 2048
    seed: int | None = None
    end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_draw(self.talker, "")
        _check_draw(self.predictor, "subtalker_")
        _check("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)
        _check("repetition_penalty_window", self.penalty_window, 0, whole=True)
        _check("min_new_tokens", self.min_new_tokens, 0, whole=True)
        _check("max_new_tokens", self.max_new_tokens, 1, whole=True)
        if self.seed is not None:
            _check("seed", self.seed, 0, 2**63 - 1, whole=True)
        for each in self.end_ids:
            _check("eos_token_id", each, 0, whole=True)

    def fits(self, k_limit: int | None, nucleus: bool, window_limit: int) -> bool:
        """Whether a sampler built with these static bounds draws exactly what these parameters request."""
        draws = [draw for draw in (self.talker, self.predictor) if draw.do_sample]
        within_k = k_limit is None or all(0 < draw.top_k <= k_limit for draw in draws)
        return within_k and (nucleus or all(draw.top_p == 1 for draw in draws)) and self.penalty_window <= window_limit


_TALKER = {name: name for name in ("do_sample", "temperature", "top_k", "top_p")}
_PREDICTOR = {
    "subtalker_dosample": "do_sample",
    "subtalker_temperature": "temperature",
    "subtalker_top_k": "top_k",
    "subtalker_top_p": "top_p",
}
_JOB = {
    "repetition_penalty": "repetition_penalty",
    "repetition_penalty_window": "penalty_window",
    "min_new_tokens": "min_new_tokens",
    "max_new_tokens": "max_new_tokens",
    "seed": "seed",
}
END_IDS = "eos_token_id"
NAMES = (*_TALKER, *_PREDICTOR, *_JOB, END_IDS)


def resolve_sampling(explicit: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> SamplingParams:
    """Merge by name: an explicit value, else the checkpoint's generation_config.json, else the default here.

    None counts as not given. Names the file has beyond these are ignored; an explicit one raises SamplingError.
    `eos_token_id`, one or several, counts only where it is explicit: the file's may be a text id.
    """
    for name in explicit:
        if name not in NAMES:
            raise SamplingError(f"unknown sampling parameter {name!r}{suggest(name, NAMES)}")
    given = {name: value for name, value in (file or {}).items() if value is not None}
    given |= {name: value for name, value in explicit.items() if value is not None}

    def chosen(names: Mapping[str, str]) -> dict[str, Any]:
        return {field: given[name] for name, field in names.items() if name in given}

    defaults = SamplingParams()
    return SamplingParams(
        talker=replace(defaults.talker, **chosen(_TALKER)),
        predictor=replace(defaults.predictor, **chosen(_PREDICTOR)),
        **chosen(_JOB),
        end_ids=_several(explicit.get(END_IDS)),
    )


def _several(ids: Any) -> tuple[Any, ...]:
    return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple, set, frozenset)) else (ids,)


def _check_draw(draw: Draw, prefix: str) -> None:
    if not isinstance(draw.do_sample, bool):
        name = "subtalker_dosample" if prefix else "do_sample"
        raise SamplingError(f"{name} must be true or false, not {draw.do_sample!r}")
    if isinstance(draw.temperature, (int, float)) and draw.temperature < MIN_TEMPERATURE:
        greedy = "subtalker_dosample=False" if prefix else "do_sample=False"
        raise SamplingError(f"{prefix}temperature must be at least {MIN_TEMPERATURE}; for greedy codes use {greedy}")
    _check(f"{prefix}temperature", draw.temperature, MIN_TEMPERATURE, 1e3)
    _check(f"{prefix}top_k", draw.top_k, 0, whole=True)
    _check(f"{prefix}top_p", draw.top_p, 1e-6, 1)


def _check(name: str, value: object, low: float, high: float = 2**31 - 1, whole: bool = False) -> None:
    check_number(name, value, low, high, whole=whole, error=SamplingError)
