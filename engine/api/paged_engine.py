"""The paged engine: the same engine with the talker's keys and values in blocks, after vLLM's PagedAttention.

Weights, codec, code predictor and scheduling are the same. The code predictor's cache spans one frame and is not paged.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..acceleration.flash import BLOCK_MULTIPLE
from ..acceleration.select import AccelerationOptions, accelerate
from ..checkpoint.memory_plan import RESERVE_BYTES
from ..model.speech_model import SpeechModel
from ..paged.kv_cache import PoolSize
from ..paged.runner import PagedRunner
from ..prompt.validation import check_number
from .threaded_engine import EngineHandle

BLOCK_POSITIONS = 16
"""For our kernels and torch, which read blocks of any size. Smaller blocks share more of two prompts and waste less of
the last one; at 16 positions the keys of one head are 4 KB in a row, enough for one read."""
KERNELS = ("auto", "fused", "flash", "plain")

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedOptions:
    """`gpu_memory_utilization`: the share of the GPU's memory for blocks; `enforce_eager`: without CUDA graphs.

    `kernels`: auto prefers our fused ones to flash-attn to torch's. `half_codec`: fused codec kernels in float16. On a
    CPU there are as many blocks as one sequence of full length needs. Raises ValueError.
    """

    gpu_memory_utilization: float = 0.3
    enforce_eager: bool = False
    kernels: str = "auto"
    half_codec: bool = True
    slots: int = 32
    max_positions: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory_utilization < 1:
            raise ValueError(f"gpu_memory_utilization must be above 0 and below 1, not {self.gpu_memory_utilization}")
        if self.kernels not in KERNELS:
            raise ValueError(f"kernels must be one of {', '.join(KERNELS)}, not {self.kernels!r}")
        check_number("slots", self.slots, 1, whole=True)
        check_number("max_positions", self.max_positions, 1, whole=True)


class PagedEngine:
    """A model's paged engine, opened at its first use."""

    def __init__(self, open_engine: Callable[[PagedOptions], EngineHandle], options: PagedOptions) -> None:
        self._open, self._options = open_engine, options
        self._changing = threading.Lock()
        self._handle: EngineHandle | None = None

    @property
    def idle(self) -> bool:
        """True while no job is open."""
        return self._handle is None or self._handle.engine.idle

    def exclusively(self, call: Callable[[], T]) -> T:
        """Run `call` between two steps and return its result. Raises what it raises."""
        handle = self._handle
        return call() if handle is None else handle.engine.exclusively(call)

    def opened(self, options: PagedOptions | None = None) -> EngineHandle:
        """Return the engine; with other `options` than it has, replace it.

        Raises RuntimeError while a stream of the old one is open, MemoryError.
        """
        with self._changing:
            if options not in (None, self._options):
                if not self.idle:
                    raise RuntimeError("other options replace the paged engine: close all its streams first")
                self._handle, self._options = None, options  # frees the old one's memory before the new one allocates
            if self._handle is None:
                self._handle = self._open(self._options)
            return self._handle


@torch.inference_mode()
def paged_runner(model: SpeechModel, options: PagedOptions) -> PagedRunner:
    """Return an accelerated runner over blocks. Nothing else may run on the model meanwhile. Raises MemoryError."""
    device = model.talker.head.weight.device
    positions = min(options.max_positions, model.config.talker.max_positions)
    size = pool_size(model, options, positions)
    runner = PagedRunner(model, options.slots, min(positions, size.positions), size)
    if device.type == "cuda":
        model.talker.text.fold()
    half = options.half_codec
    graphs = not options.enforce_eager
    pace = accelerate(runner, AccelerationOptions(options.kernels, graphs=graphs, half_codec=half, codec_alone=half))
    log.info(
        "paged engine: %d blocks of %d positions, %s kernels, up to %d streams of up to %d positions",
        size.blocks, size.block_positions, pace.kernels, options.slots, runner.max_positions,
    )  # fmt: skip
    return runner


def pool_size(model: SpeechModel, options: PagedOptions, positions: int) -> PoolSize:
    """Return as many blocks as fit into the GPU's share, at most what all slots can fill. Raises MemoryError."""
    device, block = model.talker.head.weight.device, block_positions(options.kernels)
    least = -(-positions // block)
    if device.type != "cuda":
        return PoolSize(least, block)
    t, item = model.config.talker.transformer, model.talker.head.weight.dtype.itemsize
    block_bytes = t.layers * 2 * t.kv_heads * t.head_dim * item * block
    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    blocks = blocks_within(int(options.gpu_memory_utilization * total_bytes), free_bytes, block_bytes)
    return PoolSize(min(blocks, options.slots * least), block)


def blocks_within(budget_bytes: int, free_bytes: int, block_bytes: int) -> int:
    """Return how many blocks a budget holds. Raises MemoryError if not one fits or the budget exceeds what is free."""
    room_bytes = max(0, free_bytes - RESERVE_BYTES)
    if budget_bytes > room_bytes:
        raise MemoryError(
            f"the paged engine's blocks would take {budget_bytes / 1e9:.1f} GB and {room_bytes / 1e9:.1f} GB are left: "
            "lower paged_gpu_memory_utilization, or close other programs that use the GPU"
        )
    blocks = budget_bytes // block_bytes - 1  # less the null block
    if blocks < 1:
        raise MemoryError(
            f"{budget_bytes / 1e6:.0f} MB hold no two blocks of {block_bytes / 1e6:.1f} MB: "
            "raise paged_gpu_memory_utilization"
        )
    return blocks


def block_positions(kernels: str) -> int:
    """Return the positions of a block: flash-attn's own size where it is used, small ones otherwise."""
    has_triton, has_flash = (importlib.util.find_spec(name) is not None for name in ("triton", "flash_attn"))
    flash = kernels == "flash" or (kernels == "auto" and has_flash and not has_triton)
    return BLOCK_MULTIPLE if flash else BLOCK_POSITIONS
