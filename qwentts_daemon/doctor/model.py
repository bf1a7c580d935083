"""Checks the engine: whether its GPU computes, the model's files are complete, and the model fits the GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import host

from ..config.schema import Config
from ..config.schema import Engine as EngineSection
from .findings import Finding, error, ok, warning
from .machine import PROGRAM
from .subprocesses import CommandResult, run

PROBE_TIMEOUT_S = 120.0
"""torch is large, and a disk may be slow and cold."""
SUPPORTED_FROM = (7, 5)
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
    gpus: tuple[Gpu, ...]


def check_choice(config: EngineSection) -> tuple[str, list[Finding]]:
    """Which engine speaks, `qwen3` or `espeak`, and why."""
    chosen = host.choose_backend(config.backend, config.model)
    text = f"{chosen.name}, because {chosen.reason}"
    if chosen.name == "espeak" and config.backend == "auto":
        return chosen.name, [warning("engine", text, "install what is missing, or set engine.backend: espeak")]
    return chosen.name, [ok("engine", text)]


def device_files() -> list[Path]:
    """Return the device files of the NVIDIA driver that exist."""
    return host.driver_files()


def driver_version() -> str | None:
    """Return the version of the loaded NVIDIA driver."""
    return host.driver_version()


def ask_torch() -> CommandResult:
    """Run the engine's GPU probe."""
    return run(host.probe_command(), PROBE_TIMEOUT_S)


def read_probe(answer: CommandResult) -> Torch | Finding:
    """Return the probe's answer, or the reason why it failed."""
    if answer.fault:
        remedy = f"reboot after a driver update; otherwise reinstall: {host.install_command('engine')}"
        return error("gpu", f"torch cannot ask the driver: {answer.fault}", remedy)
    found = json.loads(answer.output)
    gpus = tuple(
        Gpu(each["name"], (each["capability"][0], each["capability"][1]), each["free_bytes"], each["total_bytes"],
            each["fault"])
        for each in found["devices"]
    )  # fmt: skip
    return Torch(found["torch"], found["cuda"], gpus)


def check_gpus(torch: Torch, wanted: Sequence[str], driver: str | None) -> list[Finding]:
    """Check the GPUs of `engine.devices`; `driver` is the version of the loaded driver."""
    if wanted == ("cpu",):
        return [warning("gpu", "engine.devices is cpu: far slower than speech", "use a GPU, or engine.backend: espeak")]
    if torch.cuda is None:
        remedy = "pip install --force-reinstall torch, without an index for CPUs"
        return [error("gpu", f"torch {torch.version} was built without CUDA", remedy)]
    if not torch.gpus:
        return [_no_gpu(torch, driver)]
    found = []
    for number in gpu_numbers(wanted, len(torch.gpus)):
        if number < len(torch.gpus):
            found.append(_gpu(torch, number))
        else:
            remedy = "nvidia-smi lists those that there are; correct engine.devices"
            found.append(error("gpu", f"cuda:{number} does not exist; there are {len(torch.gpus)} GPUs", remedy))
    return found


def _no_gpu(torch: Torch, driver: str | None) -> Finding:
    text = f"torch {torch.version} (CUDA {torch.cuda}) finds no NVIDIA GPU"
    if fault := host.driver_fault(driver, torch.cuda or ""):
        return error("gpu", text, fault)
    remedy = f"the driver {driver} is new enough: check CUDA_VISIBLE_DEVICES, and `dmesg | grep -i nvrm`"
    return error("gpu", text, remedy)


def gpu_numbers(wanted: Sequence[str], count: int) -> list[int]:
    """`engine.devices` as numbers of GPUs."""
    if tuple(wanted) == ("all",):
        return list(range(count))
    return [int(device.partition(":")[2] or 0) for device in wanted]


def _gpu(torch: Torch, number: int) -> Finding:
    gpu = torch.gpus[number]
    text = f"cuda:{number}, {gpu.name}, {gpu.free_bytes / 1e9:.1f} of {gpu.total_bytes / 1e9:.1f} GB free"
    if gpu.capability < SUPPORTED_FROM:
        remedy = "use a GPU of the RTX 20 series or newer; torch does not support GTX 10 and older"
        return error("gpu", f"{text}: compute capability {gpu.capability[0]}.{gpu.capability[1]}", remedy)
    if gpu.fault:
        remedy = "close other programs that use the GPU (nvidia-smi), or reboot"
        return error("gpu", f"{text}: {gpu.fault} (CUDA {torch.cuda})", remedy)
    capability = f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    if gpu.capability < BFLOAT16_FROM:
        remedy = "a 0.6B model suits it better (engine.model), or a GPU from the RTX 30 series on"
        return warning("gpu", f"{text}, {capability}: no bfloat16, so the model takes twice the memory", remedy)
    return ok("gpu", f"{text}, {capability}, torch {torch.version}, CUDA {torch.cuda}")


# --- files ----------------------------------------------------------------------------------------------------


def find_model(config: EngineSection) -> Path | Finding:
    """Its directory, without asking the hub."""
    try:
        return host.find_checkpoint(config.model, config.revision, offline=True, cache_dir=config.cache_dir)
    except ImportError as fault:
        return error("model", f"{fault.name} is not installed", host.install_command("engine"))
    except host.DownloadInterrupted:
        text = f"{config.model} is not downloaded yet, or not wholly"
        return warning("model", text, f"{PROGRAM} download (4.5 GB for a 1.7B model); the daemon does so at its start")
    except host.CheckpointError as fault:
        return error("model", str(fault), "correct engine.model, or copy the directory again")


def check_files(directory: Path, with_hashes: bool) -> list[Finding]:
    """Check that every file of the checkpoint exists, is complete, and with hashes that it is what the hub sent."""
    files = host.checkpoint_files(directory)
    found = [
        error("model", f"{file} {fault}", f"delete {file.resolve()}, then {PROGRAM} download, or copy it again")
        for file in files
        if (fault := host.file_fault(file, with_hashes))
    ]
    if found:
        return found
    size = sum(file.stat().st_size for file in files) / 1e9
    known = sum(host.has_known_hash(file) for file in files) if with_hashes else 0
    compared = f", {known} hashes as the hub has them" if known else ""
    return [ok("model", f"{directory}: {len(files)} files, {size:.2f} GB, whole{compared}")]


def check_config(directory: Path) -> host.ModelConfig | Finding:
    """Return the facts about the model in its config.json."""
    try:
        return host.read_config(directory)
    except host.CheckpointError as fault:
        return error("model", str(fault), "choose a Qwen3-TTS 12 Hz checkpoint (engine.model)")


# --- memory ---------------------------------------------------------------------------------------------------


def check_memory(model: host.ModelConfig, config: EngineSection, torch: Torch, in_use: bool) -> list[Finding]:
    """The model against each GPU's memory; `in_use`: a daemon runs already, which holds what it needs."""
    numbers = gpu_numbers(config.devices, len(torch.gpus)) if config.devices != ("cpu",) else []
    usable = [number for number in numbers if number < len(torch.gpus) and not torch.gpus[number].fault]
    return [_fits(model, config, number, torch.gpus[number], in_use) for number in usable]


def _fits(model: host.ModelConfig, config: EngineSection, number: int, gpu: Gpu, in_use: bool) -> Finding:
    dtype = config.dtype if config.dtype != "auto" else "bfloat16" if gpu.capability >= BFLOAT16_FROM else "float32"
    codec = config.codec_dtype if config.codec_dtype != "auto" else "float32"
    room = gpu.total_bytes if in_use else gpu.free_bytes
    try:
        planned = host.plan_memory(model, NUMBER_BYTES[dtype], NUMBER_BYTES[codec], room, config.max_jobs)
    except host.MemoryShortage as shortage:
        return error("memory", f"cuda:{number}: {shortage}", "change one of these, then run this again")
    where = "" if planned.text_table_on_gpu else ", the text table in host memory"
    text = f"cuda:{number}: {config.max_jobs} replies at once of {planned.positions} positions fit{where}"
    if planned.positions == host.LONGEST_POSITIONS:
        return ok("memory", text)
    remedy = f"lower engine.max_jobs for replies longer than {planned.positions * 0.08:.0f} s"
    return warning("memory", text, remedy)


def compiled_cache(environment: Mapping[str, str]) -> Path:
    """Return the directory of the compiled kernels."""
    return host.kernel_cache(environment)


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
