"""From settings to an engine that can speak, with one sentence for each way in which that can fail.

The only backend file that imports torch; `qwen3` imports it inside `load`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...acceleration.select import AccelerationOptions, AccelerationResult, accelerate
from ...checkpoint.gpu_probe import AMPERE
from ...checkpoint.load import LoadOptions, read_config
from ...checkpoint.loaded import LoadedCheckpoint, load_checkpoint
from ...checkpoint.memory_footprint import NumberBytes, footprint
from ...checkpoint.memory_plan import POSITIONS, MemoryShortage, fit, plan
from ...installation import driver_fault, driver_version
from ...ipc.settings import ModelSettings
from ...model.config import SAMPLE_RATE, CheckpointError, ModelConfig
from ...prompt.sampling_params import SamplingError, SamplingParams, resolve_sampling
from ...runtime.model_runner import Runner
from ...scheduler.engine import Engine
from ...voices.library import ClonedVoices
from . import BackendError
from .selection import has_gpu

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A loaded model and what drives it. `out_of_memory` is the error after which it still works."""

    loaded: LoadedCheckpoint
    engine: Engine
    clones: ClonedVoices
    sampling: SamplingParams
    description: str
    on_gpu: bool
    pace: AccelerationResult
    out_of_memory: type[Exception] = torch.cuda.OutOfMemoryError

    def free_memory(self) -> None:
        """Release the memory that torch caches."""
        if self.on_gpu:
            torch.cuda.empty_cache()

    def memory_use(self) -> str:
        """Return the use of GPU memory as words for the log."""
        if (found := self.memory_bytes()) is None:
            return ""
        used, total = found
        return f", {used / 1e9:.1f} of {total / 1e9:.1f} GB of GPU memory in use"

    def memory_bytes(self) -> tuple[int, int] | None:
        """Return used and total memory of the GPU in bytes, for all processes; None on a CPU."""
        if not self.on_gpu:
            return None
        free, total = torch.cuda.mem_get_info(self.loaded.model.talker.head.weight.device)
        return total - free, total


def open_engine(directory: Path, settings: ModelSettings) -> LoadedEngine:
    """Load the checkpoint in `directory`. Raises BackendError."""
    with _explained(settings):
        options = _options(directory, settings)
        loaded = load_checkpoint(directory, options)
        sampling = resolve_sampling(settings.sampling, loaded.generation)
        runner = Runner(loaded.model, settings.max_jobs, _positions(loaded.model.config, options, settings.max_jobs))
        half = settings.codec_dtype != "float32"
        # Inductor is built on Triton, so our codec kernels run beside it.
        wanted = AccelerationOptions(
            settings.kernels, settings.cuda_graphs, half_codec=half, codec_alone=half and settings.kernels == "compiled"
        )
        pace = accelerate(runner, wanted)
        if options.device != "cpu":
            torch.set_num_threads(1)  # little is left for the CPU, and threads that wait for more keep its cores busy
    where = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "CPU"
    seconds = runner.max_positions * runner.frame_samples / SAMPLE_RATE
    description = (
        f"{settings.name} on {where}, {str(options.dtype).removeprefix('torch.')}, {pace.kernels} kernels, "
        f"{pace.capacity} jobs of {runner.max_positions} positions ({seconds:.0f} s of speech)"
    )
    if pace.step_s:
        steps = ", ".join(f"{rows}: {step_s * 1000:.1f}" for rows, step_s in pace.step_s.items())
        log.info("%s: ms per step (80 ms of speech), by number of jobs: %s", settings.name, steps)
    if pace.capacity < settings.max_jobs:
        log.warning(
            "%s: this GPU speaks %d jobs at once in real time, not engine.max_jobs %d; more wait their turn",
            settings.name, pace.capacity, settings.max_jobs,
        )  # fmt: skip
    return LoadedEngine(
        loaded=loaded,
        engine=Engine(runner, loaded.tokenizer),
        clones=ClonedVoices(loaded, runner),
        sampling=sampling,
        description=description,
        on_gpu=options.device != "cpu",
        pace=pace,
    )


def _options(directory: Path, settings: ModelSettings) -> LoadOptions:
    """Where the weights go, and in which types. Raises MemoryShortage before anything is loaded in vain."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    codec_dtype = torch.float32 if settings.codec_dtype == "auto" else _DTYPES[settings.codec_dtype]
    options = LoadOptions(device=device, dtype=dtype, codec_dtype=codec_dtype, fold_text=device != "cpu")
    free = free_bytes(device)
    if free is None or plan(read_config(directory), _widths(options), free, settings.max_jobs).text_table_on_gpu:
        return options
    log.warning("the GPU memory is short: the text table stays in host memory")
    return replace(options, text_table_device="cpu")


def _positions(config: ModelConfig, options: LoadOptions, jobs: int) -> int:
    """How long each slot can be beside the loaded weights. Raises MemoryShortage."""
    free, positions = free_bytes(options.device), POSITIONS[0]
    if free is not None:
        sizes = footprint(config, _widths(options))
        found = fit(sizes, free, jobs)
        if found is None:  # others have taken memory meanwhile
            raise MemoryShortage(
                f"no GPU memory is left for engine.max_jobs {jobs}; lower it, or close other programs that use the GPU"
            )
        positions = found
    return min(positions, config.talker.max_positions)


def _widths(options: LoadOptions) -> NumberBytes:
    return NumberBytes(options.dtype.itemsize, options.codec_dtype.itemsize)


def free_bytes(device: str) -> int | None:
    """What a GPU has left for us; None for the CPU."""
    if device == "cpu":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def choose_device(wanted: str) -> str:
    """Return the torch device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises BackendError if it is not available."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cpu" or (wanted == "auto" and not count and not _gpu_expected()):
        if wanted == "auto":
            log.warning(
                "no NVIDIA GPU was found: the model runs on the CPU, much slower than real time (engine.devices)"
            )
        return "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if index < count:
        return f"cuda:{index}"
    if torch.version.cuda is None:
        raise BackendError(f"engine.devices {wanted}: this build of torch does not support CUDA", permanent=True)
    version = driver_version()
    reason = driver_fault(version, torch.version.cuda) or f"the NVIDIA driver {version} is new enough; try `nvidia-smi`"
    raise BackendError(f"engine.devices {wanted}: torch finds {count} NVIDIA GPUs; {reason}")


def choose_dtype(wanted: str, device: str) -> torch.dtype:
    """Return bfloat16 if the GPU supports it (from Ampere on), else float32: float16 overflows too easily."""
    if wanted != "auto":
        return _DTYPES[wanted]
    able = device.startswith("cuda") and torch.cuda.get_device_capability(device) >= AMPERE
    return torch.bfloat16 if able else torch.float32


def _gpu_expected() -> bool:
    """Whether a GPU that torch cannot see should be waited for rather than done without."""
    return torch.version.cuda is not None and has_gpu()


@contextmanager
def _explained(settings: ModelSettings) -> Iterator[None]:
    """Convert exceptions of loading into a BackendError with the remedy."""
    try:
        yield
    except MemoryShortage as error:
        raise BackendError(f"{settings.name}: {error}") from error
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
