"""Computes the shared memory that the kernels of the real model need on a GPU, without one.

    python -m tests.engine.kernels.shared_memory CAPABILITY
prints the most bytes of any variant of each kernel, as a JSON object; capability 86 is an RTX 30.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from triton import knobs
from triton.runtime import driver

from engine.acceleration.capture import codec_steps, frame_steps
from engine.acceleration.fused import FusedDecodeStep
from engine.checkpoint.load import LoadOptions, load
from engine.kernels.codec import FusedCodec
from engine.kernels.launch import Launch
from engine.kernels.precompile import compile_ahead
from engine.runtime.model_runner import Runner
from engine.testing import tiny_checkpoint
from tests.engine.kernels.compiled_ahead import Driver, Seen

SLOTS = 32


def shallow(directory: Path) -> Path:
    """A checkpoint as wide as the real ones and two layers deep."""
    layers = {"num_hidden_layers": 2}
    sizes = replace(
        tiny_checkpoint.full_sizes("1b7"),
        text_rows=tiny_checkpoint.TEXT_ROWS,
        layers=2,
        predictor=(*tiny_checkpoint.full_sizes("1b7").predictor[:2], 2),
        decoder=tiny_checkpoint.FULL_DECODER | layers,
        encoder=tiny_checkpoint.TINY_ENCODER,
    )
    with patch.object(tiny_checkpoint, "full_sizes", lambda _: sizes):
        return tiny_checkpoint.build_full(directory, "1b7", "custom_voice", device="cpu")


@torch.inference_mode()
def main() -> None:
    capability, most = int(sys.argv[1]), defaultdict[str, int](int)

    def note(*, metadata: dict[str, Any], **_: object) -> None:
        most[metadata["name"]] = max(most[metadata["name"]], metadata["shared"])

    knobs.compilation.listener = note
    driver.set_active(Driver(Seen(), capability))
    with tempfile.TemporaryDirectory() as name:
        runner = Runner(load(shallow(Path(name)), LoadOptions("cpu", torch.bfloat16, fold_text=True)), SLOTS, 128)
    with patch.object(Launch, "on", lambda _: Launch(early=capability >= 90)):
        frame = FusedDecodeStep(runner.model, runner.state)
    codec = FusedCodec(runner.model.decoder, SLOTS, torch.float16, "cpu")
    compile_ahead(chain(frame_steps(runner, frame), codec_steps(runner, codec)))
    print(json.dumps(most))


if __name__ == "__main__":
    main()
