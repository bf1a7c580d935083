"""Frames that are not captured as a whole, whose code predictor is: the same codes, and only for captured batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.acceleration.predictor_graph import DrawGraphs
from engine.runtime.decode_step import EagerDecodeStep
from tests.engine.support.engine_harness import TEXTS, Speaker, Spoken, same
from tests.engine.support.recorded_calls import RecordedPredictor


def spoken(speaker: Speaker) -> dict[int, Spoken]:
    for job, text in enumerate(TEXTS):
        speaker.start(job, text, seed=job, max_new_tokens=6 + 3 * job)
    return speaker.finish()


@pytest.mark.parametrize("sizes", [(1, 2, 3), (3,)])
@torch.inference_mode()
def test_captured_predictor_codes_equal_eager(sizes: tuple[int, ...]) -> None:
    plain, graphed, graphs = Speaker(), Speaker(), RecordedPredictor()
    step = graphed.runner.strategies.step
    assert isinstance(step, EagerDecodeStep)
    draws = DrawGraphs(step, graphs)  # type: ignore[arg-type]
    draws.capture(sizes, graphed.runner.model, graphed.runner.state)
    graphed.runner.strategies = replace(graphed.runner.strategies, step=step.with_draw(draws))
    expected = spoken(plain)
    for job, made in spoken(graphed).items():
        same(made, expected[job])
    assert {rows for rows, _ in graphs.replays} == set(sizes)  # batches become smaller as jobs end
