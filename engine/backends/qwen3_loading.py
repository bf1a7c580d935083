"""From settings to an engine that can speak, with one sentence for each way in which that can fail.

The only backend file that imports torch; `qwen3` imports it inside `load`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import LoadOptions
from ..choice import has_gpu
from ..cloned_voices import ClonedVoices
from ..core import Engine
from ..loaded import Loaded, load_checkpoint
from ..model.config import CheckpointError
from ..runner import Runner
from ..sampling_params import SamplingError, SamplingParams, resolve_sampling
from ..settings import ModelSettings
from . import BackendError

SLOT_POSITIONS = 4096
"""Prompt and speech of one job: more than five minutes, in 0.5 GB of GPU memory."""

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A loaded model and what drives it. `out_of_memory` is the error after which it still works."""

    loaded: Loaded
    engine: Engine
    clones: ClonedVoices
    sampling: SamplingParams
    description: str
    on_gpu: bool
    out_of_memory: type[Exception] = torch.cuda.OutOfMemoryError

    def free_memory(self) -> None:
        """Give back what torch holds for later use."""
        if self.on_gpu:
            torch.cuda.empty_cache()


def open_engine(directory: Path, settings: ModelSettings) -> Opened:
    """Load the checkpoint in `directory`. Raises BackendError."""
    began_s = time.monotonic()
    with _explained(settings):
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, device)
        loaded = load_checkpoint(directory, LoadOptions(device=device, dtype=dtype))
        sampling = resolve_sampling(settings.sampling, loaded.generation)
        runner = Runner(loaded.model, settings.max_jobs, min(SLOT_POSITIONS, loaded.model.config.talker.max_positions))
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    took = f"loaded in {time.monotonic() - began_s:.1f} s"
    description = f"{settings.name} on {where}, {str(dtype).removeprefix('torch.')}, {took}"
    return Opened(
        loaded=loaded,
        engine=Engine(runner, loaded.tokenizer),
        clones=ClonedVoices(loaded, runner),
        sampling=sampling,
        description=description,
        on_gpu=device != "cpu",
    )


def choose_device(wanted: str) -> str:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises BackendError when it is not there now."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count and not _gpu_expected()):
        if wanted == "auto":
            log.warning("there is no NVIDIA GPU: the model runs on the CPU, much slower than speech (engine.device)")
        return "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if index < count:
        return f"cuda:{index}"
    if torch.version.cuda is None:
        raise BackendError(f"engine.device {wanted}: this build of torch knows no CUDA", permanent=True)
    raise BackendError(f"engine.device {wanted}: torch sees {count} NVIDIA GPUs now; does `nvidia-smi` see it?")


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """bfloat16 where the GPU computes in it (from Ampere on), else float32: float16 overflows too easily."""
    if wanted != "auto":
        return _DTYPES[wanted]
    able = device.startswith("cuda") and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if able else torch.float32


def _gpu_expected() -> bool:
    """Whether a GPU that torch cannot see should be waited for rather than done without."""
    return torch.version.cuda is not None and has_gpu()


@contextmanager
def _explained(settings: ModelSettings) -> Iterator[None]:
    """Turn what loading raises into a BackendError that says what to do."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise BackendError(
            f"{settings.name}: not enough GPU memory. Close other programs that use the GPU, lower engine.max_jobs, "
            "or choose a smaller engine.model"
        ) from error
    except CheckpointError as error:
        raise BackendError(str(error), permanent=True) from error
    except SamplingError as error:
        raise BackendError(f"sampling: {error}", permanent=True) from error
    except RuntimeError as error:
        if "CUDA" not in str(error):
            raise
        raise BackendError(f"{settings.name}: the GPU cannot be used now: {str(error).splitlines()[0]}") from error
