"""How much speech fits into a GPU: positions for each slot and the device of the text table, decided before loading."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..model.config import ModelConfig
from .memory_footprint import Footprint, NumberBytes, footprint

POSITIONS = (4096, 3072, 2048, 1536, 1024)
"""What a slot may hold, prompt and speech: 1,024 positions are 80 s, 4,096 more than five minutes."""
RESERVE_BYTES = 512 << 20
"""For graphs, libraries' workspaces and what an allocator wastes; the CUDA context is not among the free bytes."""
SLOT_RESERVE_BYTES = 24 << 20
"""For the intermediate results of each job."""
SMALL_HIDDEN = 1024
"""Width of the 0.6B model's talker, whose layers are otherwise those of the 1.7B model."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Positions of each slot, and whether the text table is on the GPU too."""

    positions: int
    text_table_on_gpu: bool


class MemoryShortage(Exception):
    """The model, or this many jobs, do not fit. The message states how much is missing and what would fit."""


def plan(config: ModelConfig, each: NumberBytes, free_bytes: int, jobs: int) -> MemoryPlan:
    """How to place a checkpoint that is not loaded yet into `free_bytes`. Raises MemoryShortage."""
    sizes = footprint(config, each)
    for on_gpu in (True, False):
        if positions := fit(sizes, free_bytes - sizes.weights(on_gpu), jobs):
            return MemoryPlan(positions, on_gpu)
    missing = needed(sizes, jobs, POSITIONS[-1]) + sizes.weights(False) - free_bytes
    raise MemoryShortage(
        f"{missing / 1e9:.1f} GB of GPU memory are missing for engine.max_jobs {jobs}; "
        f"{_advice(config, each, free_bytes, jobs)}"
    )


def fit(sizes: Footprint, budget_bytes: int, jobs: int) -> int | None:
    """The most positions of each of `jobs` slots that fit beside the weights, or None."""
    return next((each for each in POSITIONS if needed(sizes, jobs, each) <= budget_bytes), None)


def needed(sizes: Footprint, jobs: int, positions: int) -> int:
    """Bytes beside the weights. There is one slot more than there are jobs, for rows that only fill up a batch."""
    slots = (jobs + 1) * (positions * sizes.position + sizes.stream)
    return slots + jobs * SLOT_RESERVE_BYTES + sizes.hearing + RESERVE_BYTES


def _advice(config: ModelConfig, each: NumberBytes, free_bytes: int, jobs: int) -> str:
    """What would fit, the smallest change first."""
    ways = []
    if fewer := _most_jobs(config, each, free_bytes, jobs):
        ways.append(f"engine.max_jobs: {fewer}")
    small = _smaller(config)
    if small and (fewer := _most_jobs(small, each, free_bytes, jobs + 1)):
        ways.append("a 0.6B engine.model" + ("" if fewer == jobs else f" with engine.max_jobs: {fewer}"))
    others = "close other programs that use the GPU"
    return f"what would fit: {', or '.join(ways)}; or {others}" if ways else others


def _most_jobs(config: ModelConfig, each: NumberBytes, free_bytes: int, below: int) -> int | None:
    sizes = footprint(config, each)
    budget_bytes = free_bytes - sizes.weights(False)
    return next((jobs for jobs in range(below - 1, 0, -1) if fit(sizes, budget_bytes, jobs)), None)


def _smaller(config: ModelConfig) -> ModelConfig | None:
    """The 0.6B model of a 1.7B one of a kind that has one."""
    t = config.talker.transformer
    if t.hidden_size <= SMALL_HIDDEN or config.model_type == "voice_design":
        return None
    small = replace(t, hidden_size=SMALL_HIDDEN, intermediate_size=3 * SMALL_HIDDEN)
    return replace(config, talker=replace(config.talker, transformer=small))
