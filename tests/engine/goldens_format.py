"""What the maker and the reader of the goldens agree on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

DIRECTORY = Path(__file__).parent / "goldens"
LOGIT_STRIDE = 12
WAVE_STRIDE = 31
CODE_FRAMES = 90
CHUNKS = (30, 6)
"""Frames and context frames of the chunked decode."""
RECORDINGS_S = (1.03, 2.2)


def weights_hash(file: Path) -> str:
    """Which weights a golden was made from: of names and values, not of the file's layout."""
    digest = hashlib.sha256()
    for name, value in sorted(load_file(file).items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
