"""A full-size codec decoder with random weights, for tests and timings."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoint.hub import CODEC_WEIGHTS_FILE
from engine.checkpoint.load import LoadOptions, load_codec
from engine.model.codec_decoder import CodecDecoder
from engine.model.config import CODEC_FILE
from engine.testing.tiny_checkpoint import codec_tensors, full_config
from tests.engine.support.random_inputs import codes as random_codes


@cache
def full_decoder(dtype: torch.dtype = torch.float32) -> CodecDecoder:
    """The same weights for every type."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        tensors = codec_tensors(full_config(directory, "0b6"), device="cuda")
        save_file({name: value.cpu() for name, value in tensors.items()}, directory / CODEC_WEIGHTS_FILE)
        options = LoadOptions(device="cuda", codec_dtype=dtype)
        return load_codec(directory / CODEC_FILE, directory / CODEC_WEIGHTS_FILE, options).decoder


def codes(batch: int, frames: int, seed: int = 0) -> Tensor:
    """Random codes [batch, frames, 16]."""
    return torch.from_numpy(random_codes(batch, frames, seed)).transpose(1, 2).contiguous().cuda()


def snr(wave: Tensor, exact: Tensor) -> float:
    """Decibels."""
    return float(10 * torch.log10(exact.square().mean() / (wave - exact).square().mean()))
