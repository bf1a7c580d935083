"""Measures the duration of a runner's steps on this GPU."""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch
from torch import Tensor

from ..runtime.cuda_graphs import Graph
from ..runtime.model_runner import Runner
from .capture import SHORTEST_READ, batch_sizes, codec_step, frame_step, text_input

TRIALS = 5
CHUNK_FRAMES = 4
"""Length of the measured codec step; its duration is divided among its frames."""


def measure(runner: Runner) -> dict[int, float]:
    """Return the seconds per frame for each batch size, including the frame's share of a codec step."""
    return {rows: _frame_s(runner, rows) for rows in batch_sizes(runner.slots)}


def _frame_s(runner: Runner, rows: int) -> float:
    slots = torch.full((rows,), runner.slots, device=runner.device)
    text, start = text_input(runner, rows), torch.zeros_like(slots)
    positions = min(SHORTEST_READ, runner.max_positions)
    chosen = runner.strategies
    frame = chosen.frame_graphs.find(rows, positions) if chosen.frame_graphs else None
    codec = chosen.codec_graphs.find(rows, CHUNK_FRAMES) if chosen.codec_graphs else None
    make: Graph | partial[Tensor] = frame or partial(frame_step, runner, chosen.step, positions)
    decode: Graph | partial[Tensor] = codec or partial(codec_step, runner, chosen.codec, CHUNK_FRAMES)
    return _seconds(runner, make, slots, text) + _seconds(runner, decode, start, slots) / CHUNK_FRAMES


def _seconds(runner: Runner, call: Graph | partial[Tensor], *inputs: Tensor) -> float:
    times = []
    for _ in range(TRIALS):
        torch.cuda.synchronize(runner.device)
        began_s = time.perf_counter()
        call(*inputs)
        torch.cuda.synchronize(runner.device)
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)
