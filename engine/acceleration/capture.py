"""CUDA graphs of every call that a running engine makes: each batch size with each length, each chunk of a prompt."""

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
"""Attention's shortest graph reads this many positions, each further one twice as many."""


def capture(runner: Runner, chosen: Strategies) -> Strategies:
    """Return the same strategies with graphs of all their calls, and of the runner's own reading of prompts."""
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
    """A call to capture: its size and its length or frames, and inputs for the spare slot."""

    key: tuple[int, int]
    inputs: tuple[Tensor, ...]
    run: Callable[..., Tensor]

    def __call__(self) -> Tensor:
        return self.run(*self.inputs)


def frame_steps(runner: Runner, frame: DecodeStep) -> Iterator[CapturedCall]:
    """Yield a frame of every batch size and length."""
    for rows in batch_sizes(runner.slots):
        for length in _lengths(runner, frame):
            slots = torch.full((rows,), runner.slots, device=runner.device)
            yield CapturedCall(
                (rows, length), (slots, text_input(runner, rows)), partial(frame_step, runner, frame, length)
            )


def codec_steps(runner: Runner, codec: StreamingCodec[Any]) -> Iterator[CapturedCall]:
    """Yield a codec step of every batch size and number of frames that a chunk is made of."""
    for rows in batch_sizes(runner.slots):
        for frames in (size for size in codec.sizes if size <= 8):
            slots = torch.full((rows,), runner.slots, device=runner.device)
            yield CapturedCall(
                (rows, frames), (torch.zeros_like(slots), slots), partial(codec_step, runner, codec, frames)
            )


def prompt_steps(runner: Runner) -> Iterator[CapturedCall]:
    """Yield a prompt's chunk of every shape that the cache has room for."""
    weight = runner.model.talker.head.weight
    for size, length in CHUNK_SHAPES:
        if length <= runner.state.cache.max_positions:
            slots = torch.full((1,), runner.slots, device=runner.device)
            inputs = weight.new_zeros(1, size, weight.shape[1])
            yield CapturedCall(
                (size, length), (inputs, slots, torch.zeros_like(slots)), partial(runner.read_padded, length)
            )


def frame_step(runner: Runner, frame: DecodeStep, length: int, slots: Tensor, text: Tensor) -> Tensor:
    """Run a frame whose rows in the spare slot are inactive."""
    return frame(slots, text, slots < runner.slots, length)


def codec_step(runner: Runner, codec: StreamingCodec[Any], frames: int, starts: Tensor, slots: Tensor) -> Tensor:
    """Run a codec step on the runner's ring of codes."""
    return codec.step(runner.state.codes, starts, slots, frames)


def text_input(runner: Runner, rows: int) -> Tensor:
    """Text as `Runner.advance` passes it: ids, or rows of a table in host memory."""
    table = runner.model.talker.text.table
    if table.device == runner.device:
        return torch.zeros(rows, dtype=torch.int64, device=runner.device)
    return torch.zeros(rows, table.shape[1], dtype=table.dtype, device=runner.device)


def _lengths(runner: Runner, frame: DecodeStep) -> list[int]:
    """How many positions graphs read, the shortest first; 0 where a frame does not use the length."""
    if not frame.reads_length:
        return [0]
    longest = runner.state.cache.max_positions
    growth = 4 if isinstance(frame, CompiledDecodeStep) else 2  # compiling takes minutes, capturing does not
    lengths = [min(SHORTEST_READ, longest)]
    while lengths[-1] < longest:
        lengths.append(min(growth * lengths[-1], longest))
    return lengths


def batch_sizes(slots: int) -> list[int]:
    """Return the batch sizes that `slots` sequences can fill."""
    return [1 << power for power in range(bucket(slots).bit_length())]
