"""Python, packages, and the GPU as the driver sees it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from engine import host

from .findings import Finding, error, ok, warning
from .subprocesses import CommandResult, run

TESTED = ((3, 11), (3, 13))
PROGRAM = "qwentts-daemon"
NVIDIA_SMI_TIMEOUT_S = 10.0
QUERY = "name,driver_version,memory.total,memory.free,compute_cap"


def check_python(version: tuple[int, int], in_environment: bool) -> list[Finding]:
    """`version` is that of the running Python."""
    name = f"{version[0]}.{version[1]}"
    oldest, newest = (f"{major}.{minor}" for major, minor in TESTED)
    if not TESTED[0] <= version <= TESTED[1]:
        return [warning("python", f"{name} is not tested", f"use Python {oldest} to {newest}")]
    if not in_environment:
        remedy = "create one with python3 -m venv DIR and install into it: the package name `engine` is a common one"
        return [warning("python", f"{name}, not in a virtual environment", remedy)]
    return [ok("python", f"{name}, in a virtual environment")]


def installed_packages(extras: Sequence[str]) -> list[tuple[Requirement, str | None]]:
    """What this program needs, with these extras, and which version of it is there."""
    try:
        needed = [Requirement(line) for line in importlib.metadata.requires(PROGRAM) or ()]
    except importlib.metadata.PackageNotFoundError:  # a source tree without an installation
        return []
    wanted = [
        each for each in needed if not each.marker or any(each.marker.evaluate({"extra": name}) for name in extras)
    ]
    return [(each, _version(each.name)) for each in wanted if each.name != PROGRAM]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages(packages: Iterable[tuple[Requirement, str | None]]) -> list[Finding]:
    """Each package against what it should be."""
    listed = list(packages)
    if not listed:
        remedy = f"{host.install_command('espeak', 'engine')}, in a virtual environment"
        return [warning("packages", f"{PROGRAM} is not installed, so its requirements are unknown", remedy)]
    missing = [str(wanted) for wanted, found in listed if found is None]
    wrong = [(wanted, found) for wanted, found in listed if found and Version(found) not in wanted.specifier]
    findings = []
    if missing:
        remedy = host.install_command("espeak", "engine")
        findings.append(error("packages", f"not installed: {', '.join(missing)}", remedy))
    if wrong:
        named = ", ".join(f"{wanted.name} {found} (wanted {wanted.specifier})" for wanted, found in wrong)
        remedy = "pip install " + " ".join(f"'{wanted.name}{wanted.specifier}'" for wanted, _ in wrong)
        findings.append(warning("packages", f"not as tested: {named}", remedy))
    return findings or [ok("packages", ", ".join(f"{wanted.name} {found}" for wanted, found in listed))]


def ask_driver() -> CommandResult:
    """A line of `QUERY` for each GPU, from nvidia-smi."""
    return run(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"], NVIDIA_SMI_TIMEOUT_S)


def check_driver(answer: CommandResult, devices: Sequence[Path]) -> list[Finding]:
    """`devices` are the driver's device files that are there."""
    if answer.fault:
        return [_no_answer(answer.fault, devices)]
    findings = [_gpu(line.split(", ")) for line in answer.output.splitlines() if line.count(", ") == 4]
    unreadable = [str(device) for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if unreadable:
        remedy = "join the group that they belong to (`ls -l`), or run as a user who may"
        findings.append(error("driver", f"this user may not use {', '.join(unreadable)}", remedy))
    return findings or [error("driver", "nvidia-smi lists no GPU", "look for the reason in `dmesg | grep -i nvrm`")]


def _no_answer(fault: str, devices: Sequence[Path]) -> Finding:
    if not devices:
        return error(
            "driver", f"no driver of an NVIDIA GPU is loaded ({fault})", "install the NVIDIA driver, then reboot"
        )
    if "No such file" in fault:
        return ok("driver", "its device files exist; nvidia-smi, which reports more, is not installed")
    return error("driver", f"nvidia-smi: {fault}", "reboot after a driver update; `dmesg | grep -i nvrm` shows details")


def _gpu(fields: Sequence[str]) -> Finding:
    name, version, total_mib, free_mib, capability = fields
    memory = f"{total_mib} MiB of memory, {free_mib} free"
    return ok("driver", f"{name}, driver {version}, {memory}, compute capability {capability}")


def check_compiler() -> list[Finding]:
    """Triton builds a small C library when it first runs."""
    if found := next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None):
        return [ok("compiler", found)]
    remedy = "Debian: apt install gcc libc6-dev; or set engine.kernels: plain"
    return [warning("compiler", "no C compiler was found; the fast kernels cannot be built without one", remedy)]
