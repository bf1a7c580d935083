"""CUDA graphs of every call of a running engine: each batch size at each length, and each shape of prompt chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..runtime.codec_step import StreamingCodec
from ..runtime.cuda_graphs import CodecGraphs, FrameGraphs, PromptGraphs
from ..runtime.decode_step import DecodeStep
from ..runtime.model_runner import CHUNK_SHAPES, Runner
from ..runtime.slot_state import bucket
from ..runtime.strategies import Strategies
from .compiled import CompiledDecodeStep

SHORTEST_READ = 256
"""Shortest attention length with a graph of its own; each longer graph reads twice as many positions."""


def capture(runner: Runner, chosen: Strategies) -> Strategies:
    """Return `chosen` with graphs of all its calls, including the runner's own prefill."""
    frames, codec, prompts = FrameGraphs(runner.device), CodecGraphs(runner.device), PromptGraphs(runner.device)
    for step in frame_steps(runner, chosen.step):
        frames.capture(step.key, step.inputs, step.run)
    for step in codec_steps(runner, chosen.codec):
        codec.capture(step.key, step.inputs, step.run)
    for step in prompt_steps(runner):
        prompts.capture(step.key, step.inputs, step.run)
    return replace(chosen, frame_graphs=frames, codec_graphs=codec, prompt_graphs=prompts)


@dataclass(frozen=True, slots=True)
class CapturedCall:
    """A call to capture: its size, its length or number of frames, and inputs for the spare slot."""

    key: tuple[int, int]
    inputs: tuple[Tensor, ...]
    run: Callable[..., Tensor]

    def __call__(self) -> Tensor:
        return self.run(*self.inputs)


def frame_steps(runner: Runner, frame: DecodeStep) -> Iterator[CapturedCall]:
    """Yield a decode step for every batch size and length."""
    for rows in batch_sizes(runner.slots):
        for length in _lengths(runner, frame):
            slots = torch.full((rows,), runner.slots, device=runner.device)
            yield CapturedCall(
                (rows, length), (slots, text_input(runner, rows)), partial(frame_step, runner, frame, length)
            )


def codec_steps(runner: Runner, codec: StreamingCodec[Any]) -> Iterator[CapturedCall]:
    """Yield a codec step for every batch size and step length in frames."""
    for rows in batch_sizes(runner.slots):
        for frames in (size for size in codec.sizes if size <= 8):
            slots = torch.full((rows,), runner.slots, device=runner.device)
            yield CapturedCall(
                (rows, frames), (torch.zeros_like(slots), slots), partial(codec_step, runner, codec, frames)
            )


def prompt_steps(runner: Runner) -> Iterator[CapturedCall]:
    """Yield a prefill call for every chunk shape that fits into the cache."""
    weight = runner.model.talker.head.weight
    for size, length in CHUNK_SHAPES:
        if length <= runner.state.cache.max_positions:
            slots = torch.full((1,), runner.slots, device=runner.device)
            inputs = weight.new_zeros(1, size, weight.shape[1])
            yield CapturedCall(
                (size, length), (inputs, slots, torch.zeros_like(slots)), partial(runner.read_padded, length)
            )


def frame_step(runner: Runner, frame: DecodeStep, length: int, slots: Tensor, text: Tensor) -> Tensor:
    """Run a decode step in which rows of the spare slot are inactive."""
    return frame(slots, text, slots < runner.slots, length)


def codec_step(runner: Runner, codec: StreamingCodec[Any], frames: int, starts: Tensor, slots: Tensor) -> Tensor:
    """Run a codec step on the runner's code ring."""
    return codec.step(runner.state.codes, starts, slots, frames)


def text_input(runner: Runner, rows: int) -> Tensor:
    """Return text in the form that `Runner.advance` passes it: ids, or rows of a table in host memory."""
    table = runner.model.talker.text.table
    if table.device == runner.device:
        return torch.zeros(rows, dtype=torch.int64, device=runner.device)
    return torch.zeros(rows, table.shape[1], dtype=table.dtype, device=runner.device)


def _lengths(runner: Runner, frame: DecodeStep) -> list[int]:
    """Return the attention lengths to capture, shortest first; [0] if the step ignores the length."""
    if not frame.reads_length:
        return [0]
    longest = runner.state.cache.max_positions
    growth = 4 if isinstance(frame, CompiledDecodeStep) else 2  # compiling takes minutes, unlike capturing
    lengths = [min(SHORTEST_READ, longest)]
    while lengths[-1] < longest:
        lengths.append(min(growth * lengths[-1], longest))
    return lengths


def batch_sizes(slots: int) -> list[int]:
    """Return the batch sizes needed for up to `slots` sequences."""
    return [1 << power for power in range(bucket(slots).bit_length())]
