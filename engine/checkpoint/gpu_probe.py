"""What torch finds on this machine's GPUs, as JSON: `python -m engine.checkpoint.gpu_probe`.

A separate program, since a broken driver may hang or abort the process that queries it.
"""

from __future__ import annotations

import json
from typing import Any

AMPERE = (8, 0)
"""The first compute capability with bfloat16 (RTX 30, A100); our kernels and flash-attn need it too."""


def probe() -> dict[str, Any]:
    """The build of torch and every GPU that it can use, each tried with a small product of matrices."""
    import torch

    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": [_device(torch, number) for number in range(torch.cuda.device_count())],
    }


def _device(torch: Any, number: int) -> dict[str, Any]:
    fault = None
    try:
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        if float((ones @ ones).sum()) != 64**3:
            fault = "it calculates wrongly"
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        fault, free, total = str(error).splitlines()[0], 0, 0
    return {
        "name": torch.cuda.get_device_name(number),
        "capability": list(torch.cuda.get_device_capability(number)),
        "free_bytes": free,
        "total_bytes": total,
        "fault": fault,
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
