"""CUDA graphs of decode steps and codec steps: captured once at load, then replayed.

Graphs of one kind share a memory pool, because they run one after another on one stream; each keeps its own output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TensorCall = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured call on tensors of fixed shape; each call overwrites the previous result.

    Inputs may be on the device or in pinned host memory. Host inputs must not change until the replay has finished.
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
    """Graphs by two numbers: the batch or chunk size, and the length or number of frames.

    Each kind is captured on its own stream, because libraries keep one workspace per stream and two kinds may run
    concurrently. Captures are thread-local: concurrent GPU calls of other threads, such as decoding, do not break them.
    """

    def __init__(self, device: torch.device) -> None:
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)

    def capture(self, key: tuple[int, int], inputs: tuple[Tensor, ...], run: TensorCall, warmup_runs: int = 1) -> None:
        """Capture run(*inputs), after warm-up calls that compile and load everything it needs."""
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
        """Return the graph captured under exactly these two numbers, or None."""
        return self._graphs.get((size, more))


class FrameGraphs(_Captures):
    """Decode steps by batch size and number of positions that attention reads; 0 if the step ignores the length."""

    def find(self, rows: int, positions: int) -> Graph | None:
        """Return the first captured graph for at least `rows` rows and `positions` positions, or None.

        Graphs are searched in capture order, so capture the shortest first.
        """
        fitting = (
            graph
            for (size, length), graph in self._graphs.items()
            if size == rows and (length == 0 or length >= positions)
        )
        return next(fitting, None)


class CodecGraphs(_ExactCaptures):
    """Codec steps by batch size and number of frames."""


class PromptGraphs(_ExactCaptures):
    """Prompt chunks by padded length and number of positions that attention reads."""


class WindowGraphs(_ExactCaptures):
    """Stateless decoding of windows, by batch size and number of frames."""


class PredictorGraphs(_Captures):
    """The code predictor's part of a decode step, by batch size."""

    def find(self, rows: int) -> Graph | None:
        """Return the smallest captured graph for at least `rows` rows, or None; capture the smallest first."""
        return next((graph for (size, _), graph in self._graphs.items() if size >= rows), None)
