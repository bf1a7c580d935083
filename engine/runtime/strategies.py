"""The replaceable parts of a runner, selected once at load by `acceleration`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .codec_step import StreamingCodec
from .cuda_graphs import CodecGraphs, FrameGraphs, PromptGraphs
from .decode_step import DecodeStep
from .prefill import PrefillChunk

ReadChunks = Callable[[Sequence[PrefillChunk]], None]
"""Computes the keys and values of prompt chunks."""


@dataclass(frozen=True, slots=True)
class Strategies:
    """One way to run the model. All of them sample the same codes, up to rounding.

    `read_chunks` None: each chunk separately, padded (`Runner.read_apart`). Graphs None: launch every call eagerly.
    """

    step: DecodeStep
    codec: StreamingCodec[Any]
    read_chunks: ReadChunks | None = None
    frame_graphs: FrameGraphs | None = None
    codec_graphs: CodecGraphs | None = None
    prompt_graphs: PromptGraphs | None = None
