"""In the place of CUDA graphs on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from engine.graphs import Graph


class Recorded:
    """Graphs by batch size; a replay runs again what was captured, on the same inputs and into the same output."""

    def __init__(self) -> None:
        self.graphs: dict[int, Graph] = {}
        self.replays: list[int] = []

    def capture(
        self, key: tuple[int, int], inputs: tuple[Tensor, ...], run: Callable[..., Tensor], runs: int = 1
    ) -> None:
        output = run(*inputs)

        def replay() -> None:
            self.replays.append(key[0])
            output.copy_(run(*inputs))

        self.graphs[key[0]] = Graph(inputs, output, replay)

    def find(self, rows: int) -> Graph | None:
        return next((graph for size, graph in self.graphs.items() if size >= rows), None)
