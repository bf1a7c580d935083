"""CUDA graphs of frames and codec steps: captured once before anybody speaks, replayed ever after.

The graphs of one kind share their memory, for they run one after another on one stream; each keeps its own output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TensorCall = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured call of tensors of fixed shape; the result is overwritten by the next call.

    Its inputs may be on the device or in pinned host memory, which must not change until the call has been carried out.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor
    replay: Callable[[], None]

    def __call__(self, *given: Tensor) -> Tensor:
        for mine, new in zip(self.inputs, given, strict=True):
            mine.copy_(new, non_blocking=True)
        self.replay()
        return self.output


class _Captures:
    """Graphs by two numbers: the size of a batch or a piece, and its length or frames.

    Each kind is captured on a stream of its own, for libraries keep a workspace for each stream, and two kinds run at
    the same time. What other threads ask of the GPU meanwhile, such as sound decoded beside, spoils no capture.
    """

    def __init__(self, device: torch.device) -> None:
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def capture(self, key: tuple[int, int], inputs: tuple[Tensor, ...], run: TensorCall, warmup_runs: int = 1) -> None:
        """Capture run(*inputs), which is called before so that everything is compiled and loaded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(warmup_runs):
                run(*inputs)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = run(*inputs)
        self._graphs[key] = Graph(inputs, output, graph.replay)

    def __len__(self) -> int:
        return len(self._graphs)


class _ExactCaptures(_Captures):
    def find(self, size: int, more: int) -> Graph | None:
        """Return the graph captured under exactly these two numbers."""
        return self._graphs.get((size, more))


class FrameGraphs(_Captures):
    """Frames by batch size and positions that attention reads; 0 where a frame does not care."""

    def find(self, rows: int, positions: int) -> Graph | None:
        """Return the first graph for these rows that reads at least these positions: capture the short ones first."""
        fitting = (
            graph
            for (size, length), graph in self._graphs.items()
            if size == rows and (length == 0 or length >= positions)
        )
        return next(fitting, None)


class CodecGraphs(_ExactCaptures):
    """Codec steps by batch size and frames."""


class PromptGraphs(_ExactCaptures):
    """Pieces of a prompt by the positions that they are padded to and those that attention reads."""


class WindowGraphs(_ExactCaptures):
    """Windows that are decoded without a past, by batch size and frames."""


class PredictorGraphs(_Captures):
    """The code predictor's share of a frame, by batch size."""

    def find(self, rows: int) -> Graph | None:
        """Return the smallest captured graph for at least these rows: capture the small first."""
        return next((graph for (size, _), graph in self._graphs.items() if size >= rows), None)
