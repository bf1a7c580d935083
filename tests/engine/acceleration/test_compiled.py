"""The compiled decode step is traced as a whole and draws the codes of the eager one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.acceleration.compiled import CompiledDecodeStep
from tests.engine.support.engine_harness import TEXTS, Speaker, same


def traced(function: Callable[..., Any], fullgraph: bool, dynamic: bool, mode: str) -> Callable[..., Any]:
    """torch.compile without the minutes that Inductor takes."""
    return real_compile(function, fullgraph=fullgraph, dynamic=dynamic, backend="eager")


real_compile = torch.compile


def test_compiled_decode_step_traces_without_graph_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", traced)
    plain, compiled = Speaker(), Speaker()
    step = CompiledDecodeStep(compiled.runner.model, compiled.runner.state)
    compiled.runner.strategies = replace(compiled.runner.strategies, step=step)
    for speaker in (plain, compiled):
        for job, text in enumerate(TEXTS[:2]):
            speaker.start(job, text, seed=job, max_new_tokens=6 + 2 * job)
    expected = plain.finish()
    for job, spoken in compiled.finish().items():
        same(spoken, expected[job])
