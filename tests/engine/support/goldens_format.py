"""What the maker and the reader of the goldens agree on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.engine.support.random_inputs import sound

DIRECTORY = Path(__file__).parents[1] / "goldens"
LOGIT_STRIDE = 12
WAVE_STRIDE = 31
CODE_FRAMES = 90
CHUNKS = (30, 6)
"""Frames and context frames of the chunked decode."""
RECORDINGS_S = (1.03, 2.2)

API_SAMPLES = 10
API_WAVE_STRIDE = 97
API_EOS_GAIN = 2.0
"""The checkpoints of the API's goldens end some greedy speech early."""
_RECORDING = (sound(1.03, 0), 24_000)
_FIRST, _SECOND = "hello world, 你好 😀", "the washing machine has finished, it's 7 o'clock"
API_CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "x_vector": ("base", "0b6", "generate_voice_clone", {
        "text": _FIRST, "language": "English", "ref_audio": _RECORDING, "x_vector_only_mode": True,
    }),
    "in_context": ("base", "1b7", "generate_voice_clone", {
        "text": [_FIRST, _SECOND], "ref_audio": _RECORDING, "ref_text": "the door is open",
    }),
    "in_context_at_once": ("base", "1b7", "generate_voice_clone", {
        "text": _SECOND, "language": "German", "ref_audio": _RECORDING, "ref_text": "hello", "non_streaming_mode": True,
    }),
    "dialects": ("custom_voice", "1b7", "generate_custom_voice", {
        "text": [_FIRST, _SECOND, "hi"], "speaker": ["dylan", "Eric", "eric"],
        "language": ["Auto", "Chinese", "English"], "instruct": "speak slowly",
    }),
    "stepwise": ("custom_voice", "0b6", "generate_custom_voice", {
        "text": _SECOND, "speaker": "ryan", "instruct": "dropped", "non_streaming_mode": False,
        "repetition_penalty": 1.0,
    }),
    "described": ("voice_design", "1b7", "generate_voice_design", {
        "text": [_SECOND, _FIRST], "instruct": ["a calm voice", ""], "language": "French",
    }),
}  # fmt: skip
"""Checkpoint, method and arguments of calls that both packages take."""


def weights_hash(file: Path) -> str:
    """Which weights a golden was made from: of names and values, not of the file's layout."""
    digest = hashlib.sha256()
    for name, value in sorted(load_file(file).items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
