"""How this copy of the program was installed, and whether the GPU's driver suits its torch: facts for remedies."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

PROGRAM = "qwentts-daemon"
ROOT = Path(__file__).parents[1]
DRIVER_FILE = Path("/proc/driver/nvidia/version")
DRIVER_OF_CUDA = {"12": 525, "13": 580}
"""The oldest Linux driver for each major version of CUDA: https://docs.nvidia.com/deploy/cuda-compatibility/."""
WSL_DEVICE = Path("/dev/dxg")
OLDER_CUDA = "install --force-reinstall 'torch>=2.11,<2.14' --index-url https://download.pytorch.org/whl/cu126"


def install_command(*extras: str) -> str:
    """Return the command that installs this copy again, with some of its extras."""
    source, editable = _source()
    return f"{_pip()} install {'-e ' if editable else ''}'{source}[{','.join(extras)}]'"


def _pip() -> str:
    return f"{sys.prefix}/bin/pip" if sys.prefix != sys.base_prefix else "pip"


def install_source() -> str:
    """Return what pip installed this copy from: a directory, a wheel, an address or a name."""
    return _source()[0]


def _source() -> tuple[str, bool]:
    """Return what pip installed, and whether it is editable (PEP 610)."""
    try:
        direct = importlib.metadata.distribution(PROGRAM).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return (str(ROOT), True) if (ROOT / "pyproject.toml").is_file() else (PROGRAM, False)
    if direct is None:
        return PROGRAM, False
    found = json.loads(direct)
    url = urlsplit(found["url"])
    source = unquote(url.path) if url.scheme == "file" else found["url"]
    return source, bool(found.get("dir_info", {}).get("editable"))


def driver_version() -> str | None:
    """Return the version of the loaded NVIDIA driver, such as 550.163.01; None without one."""
    try:
        text = DRIVER_FILE.read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def driver_fault(version: str | None, cuda: str) -> str | None:
    """Return why a driver does not suit a torch built for `cuda`, with the remedy; None if it does."""
    needed = DRIVER_OF_CUDA.get(cuda.partition(".")[0])
    if version is None and WSL_DEVICE.exists():
        return "the NVIDIA driver of Windows may be too old; update it, and check that `nvidia-smi` works here"
    if version is None:
        return "no NVIDIA driver is loaded; install it and reboot"
    if needed is None or int(version.partition(".")[0]) >= needed:
        return None
    return (
        f"the NVIDIA driver {version} is too old for a torch built for CUDA {cuda}, which needs driver {needed} "
        f"or newer; install a newer driver and reboot, or use an older CUDA: {_pip()} {OLDER_CUDA}"
    )
