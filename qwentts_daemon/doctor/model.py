"""The chosen engine: whether its GPU computes, its model's files are whole, and both fit together.

A door to `engine` like `worker_client` and `engine_setup`; it asks for nothing that imports torch in this process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.acceleration import compile_cache
from engine.checkpoint import hub, integrity, memory_plan
from engine.checkpoint.memory_footprint import NumberBytes
from engine.model.config import CheckpointError, ModelConfig, read_config
from engine.worker.backends import selection

from ..config.schema import Config
from ..config.schema import Engine as EngineSection
from .findings import Finding, error, ok, warning
from .machine import PROGRAM
from .subprocesses import CommandResult, run

PROBE_TIMEOUT_S = 120.0
"""torch is large, and a disk may be slow and cold."""
BFLOAT16_FROM = (8, 0)
NUMBER_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as torch sees it."""

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Torch:
    """torch and its GPUs; `cuda` is the version that it was built for, if any."""

    version: str
    cuda: str | None
    architectures: tuple[str, ...]
    gpus: tuple[Gpu, ...]


def check_choice(config: EngineSection) -> tuple[str, list[Finding]]:
    """Which engine speaks, `qwen3` or `espeak`, and why."""
    chosen = selection.choose(config.backend, config.model)
    text = f"{chosen.name}, because {chosen.reason}"
    if chosen.name == "espeak" and config.backend == "auto":
        return chosen.name, [warning("engine", text, "mend what is missing, or say engine.backend: espeak")]
    return chosen.name, [ok("engine", text)]


def device_files() -> list[Path]:
    """Those of the NVIDIA driver that are there."""
    return [
        Path(device) for device in (*selection.GPU_DEVICES, "/dev/nvidia0", "/dev/nvidia-uvm") if Path(device).exists()
    ]


def ask_torch() -> CommandResult:
    """What `engine.checkpoint.gpu_probe` prints."""
    return run([sys.executable, "-m", "engine.checkpoint.gpu_probe"], PROBE_TIMEOUT_S)


def read_probe(answer: CommandResult) -> Torch | Finding:
    """The probe's answer, or why there is none."""
    if answer.fault:
        remedy = f"reboot after a driver update; else pip install '{PROGRAM}[engine]' again"
        return error("gpu", f"torch cannot ask the driver: {answer.fault}", remedy)
    found = json.loads(answer.output)
    gpus = tuple(
        Gpu(each["name"], (each["capability"][0], each["capability"][1]), each["free_bytes"], each["total_bytes"],
            each["fault"])
        for each in found["devices"]
    )  # fmt: skip
    return Torch(found["torch"], found["cuda"], tuple(found["architectures"]), gpus)


def check_gpus(torch: Torch, wanted: Sequence[str]) -> list[Finding]:
    """The GPUs that `engine.devices` names."""
    if wanted == ("cpu",):
        return [warning("gpu", "engine.devices is cpu: far slower than speech", "use a GPU, or engine.backend: espeak")]
    if torch.cuda is None:
        remedy = "pip install --force-reinstall torch, without an index for CPUs"
        return [error("gpu", f"torch {torch.version} was built without CUDA", remedy)]
    if not torch.gpus:
        remedy = f"`nvidia-smi` must work, and its CUDA version be {torch.cuda} or newer; update the driver"
        return [error("gpu", f"torch {torch.version} sees no NVIDIA GPU", remedy)]
    found = []
    for number in gpu_numbers(wanted, len(torch.gpus)):
        if number < len(torch.gpus):
            found.append(_gpu(torch, number))
        else:
            remedy = "nvidia-smi lists those that there are; correct engine.devices"
            found.append(error("gpu", f"there is no cuda:{number}, only {len(torch.gpus)}", remedy))
    return found


def gpu_numbers(wanted: Sequence[str], count: int) -> list[int]:
    """`engine.devices` as numbers of GPUs."""
    if tuple(wanted) == ("all",):
        return list(range(count))
    return [int(device.partition(":")[2] or 0) for device in wanted]


def _gpu(torch: Torch, number: int) -> Finding:
    gpu = torch.gpus[number]
    text = f"cuda:{number}, {gpu.name}, {gpu.free_bytes / 1e9:.1f} of {gpu.total_bytes / 1e9:.1f} GB free"
    if gpu.fault:
        remedy = "close what else uses the GPU (nvidia-smi), or reboot; the driver must be as new as CUDA"
        return error("gpu", f"{text}: {gpu.fault} (CUDA {torch.cuda})", remedy)
    capability = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    if gpu.capability < BFLOAT16_FROM:
        remedy = "a 0.6B model suits it better (engine.model), or a GPU from the RTX 30 series on"
        return warning("gpu", f"{text}, {capability}: no bfloat16, so the model takes twice the memory", remedy)
    return ok("gpu", f"{text}, {capability}, torch {torch.version}, CUDA {torch.cuda}")


# --- files ----------------------------------------------------------------------------------------------------


def find_model(config: EngineSection) -> Path | Finding:
    """Its directory, without asking the hub."""
    cache = Path(config.cache_dir).expanduser() if config.cache_dir else None
    try:
        return hub.find_checkpoint(config.model, revision=config.revision, offline=True, cache=cache)
    except ImportError as fault:
        return error("model", f"{fault.name} is not installed", f"pip install '{PROGRAM}[engine]'")
    except hub.DownloadInterrupted:
        text = f"{config.model} is not downloaded yet, or not wholly"
        return warning("model", text, f"{PROGRAM} download (4.5 GB for a 1.7B model); the daemon does so at its start")
    except CheckpointError as fault:
        return error("model", str(fault), "correct engine.model, or copy the directory again")


def check_files(directory: Path, with_hashes: bool) -> list[Finding]:
    """Every file of the checkpoint: there, whole, and what the hub sent."""
    files = [directory / name for name in hub.WANTED_FILES if (directory / name).exists()]
    weights = (hub.WEIGHTS_FILE, hub.CODEC_WEIGHTS_FILE)
    faults = {directory / name: integrity.safetensors_fault(directory / name) for name in weights}
    if with_hashes:
        faults |= {file: fault for file in files if not faults.get(file) and (fault := integrity.hash_fault(file))}
    found = [
        error("model", f"{file} {fault}", f"delete {file.resolve()}, then {PROGRAM} download, or copy it again")
        for file, fault in faults.items()
        if fault
    ]
    if found:
        return found
    size = sum(file.stat().st_size for file in files) / 1e9
    known = sum(integrity.is_known(file) for file in files) if with_hashes else 0
    compared = f", {known} hashes as the hub has them" if known else ""
    return [ok("model", f"{directory}: {len(files)} files, {size:.2f} GB, whole{compared}")]


def check_config(directory: Path) -> ModelConfig | Finding:
    """What config.json says of the model."""
    try:
        return read_config(directory)
    except CheckpointError as fault:
        return error("model", str(fault), "choose a Qwen3-TTS 12 Hz checkpoint (engine.model)")


# --- memory ---------------------------------------------------------------------------------------------------


def check_memory(model: ModelConfig, config: EngineSection, torch: Torch, in_use: bool) -> list[Finding]:
    """The model against each GPU's memory; `in_use`: a daemon runs already, which holds what it needs."""
    numbers = gpu_numbers(config.devices, len(torch.gpus)) if config.devices != ("cpu",) else []
    usable = [number for number in numbers if number < len(torch.gpus) and not torch.gpus[number].fault]
    return [_fits(model, config, number, torch.gpus[number], in_use) for number in usable]


def _fits(model: ModelConfig, config: EngineSection, number: int, gpu: Gpu, in_use: bool) -> Finding:
    dtype = config.dtype if config.dtype != "auto" else "bfloat16" if gpu.capability >= BFLOAT16_FROM else "float32"
    codec = config.codec_dtype if config.codec_dtype != "auto" else "float32"
    widths = NumberBytes(NUMBER_BYTES[dtype], NUMBER_BYTES[codec])
    room = gpu.total_bytes if in_use else gpu.free_bytes
    try:
        planned = memory_plan.plan(model, widths, room, config.max_jobs)
    except memory_plan.MemoryShortage as shortage:
        return error("memory", f"cuda:{number}: {shortage}", "change one of these, then run this again")
    where = "" if planned.text_table_on_gpu else ", the text table in host memory"
    text = f"cuda:{number}: {config.max_jobs} replies at once of {planned.positions} positions fit{where}"
    if planned.positions == memory_plan.POSITIONS[0]:
        return ok("memory", text)
    remedy = f"lower engine.max_jobs for replies longer than {planned.positions * 0.08:.0f} s"
    return warning("memory", text, remedy)


def compiled_cache(environment: Mapping[str, str]) -> Path:
    """Where Triton keeps its kernels."""
    kept = dict(environment)
    compile_cache.keep_compiled(kept)
    return Path(kept["TRITON_CACHE_DIR"])


def is_directory(config: EngineSection) -> bool:
    """Whether `engine.model` is one already, and the hub is not needed."""
    return Path(config.model).expanduser().is_dir()


def hub_cache(config: Config, environment: Mapping[str, str]) -> Path:
    """Where models are downloaded to."""
    if config.engine.cache_dir:
        return Path(config.engine.cache_dir).expanduser()
    caches_home = Path(environment.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(environment.get("HF_HOME") or caches_home / "huggingface")
    return Path(environment.get("HF_HUB_CACHE") or home / "hub").expanduser()
