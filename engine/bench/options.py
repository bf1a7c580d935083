"""What every benchmark of the engine lets one choose."""

from __future__ import annotations

import argparse
from pathlib import Path

KERNELS = ("auto", "fused", "compiled", "plain")


def engine_parser(description: str | None, directory: bool = True) -> argparse.ArgumentParser:
    """A parser with the engine's options; without `directory` no checkpoint need be named."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR", nargs=None if directory else "?", help="a checkpoint")
    parser.add_argument("--kernels", choices=KERNELS, default="auto")
    parser.add_argument("--device", default="auto", help="cuda:N or cpu")
    parser.add_argument("--dtype", default="auto", help="bfloat16, float16 or float32")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    return parser
