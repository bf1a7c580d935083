"""When made frames become a chunk: the first at once, later ones together."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE_CLIP_FRAMES = 25


@dataclass(frozen=True, slots=True)
class EmissionPlan:
    """`sizes[n]` frames make chunk n; the last size stands for all later chunks."""

    sizes: tuple[int, ...] = (1, 1, 2, 4, 8)

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"a chunk has at least one frame, not {self.sizes}")

    def frames(self, chunk: int) -> int:
        """How many frames chunk number `chunk` has."""
        return self.sizes[min(chunk, len(self.sizes) - 1)]
