"""From the name of a checkpoint to a model ready to run: find the files, read the sizes, load the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..model.config import CheckpointError, ConfigError, ModelConfig, read_codec_config, read_config
from ..model.speech_model import SpeechCodec, SpeechModel
from .hub import CODEC_WEIGHTS_FILE, WEIGHTS_FILE, DownloadError, IncompleteError, find_checkpoint
from .weight_map import codec_weights, model_weights
from .weights import Place, SafetensorsSource, TensorSource, WeightsError, fill, move_buffers

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DownloadError",
    "IncompleteError",
    "LoadOptions",
    "WeightsError",
    "assemble",
    "find_checkpoint",
    "load",
    "load_codec",
    "read_config",
]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Where the weights go and in which types. The encoders always stay float32: they run once per voice."""

    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    codec_dtype: torch.dtype = torch.float32
    text_table_device: str | None = None
    """None: with the model. "cpu" keeps 0.6 GB of text embeddings in host memory."""
    encoders: bool = True
    fold_projection: bool = True
    fold_text: bool = False
    """Project the whole text table at load: a second on a GPU, minutes on a CPU."""


def load(directory: Path, options: LoadOptions) -> SpeechModel:
    """The model in `directory` (see `find_checkpoint`), in evaluation mode. Raises CheckpointError."""
    config = read_config(directory)
    model, codec = SafetensorsSource(directory / WEIGHTS_FILE), SafetensorsSource(directory / CODEC_WEIGHTS_FILE)
    return assemble(config, model, codec, options)


def load_codec(config_file: Path, weights_file: Path, options: LoadOptions) -> SpeechCodec:
    """The codec alone, in evaluation mode. Raises CheckpointError."""
    config = read_codec_config(config_file)
    with torch.device("meta"):
        codec = SpeechCodec(config)
    place = _placement(options)
    fill(codec, codec_weights(config), SafetensorsSource(weights_file), place)
    move_buffers(codec, place)
    return codec.eval()


def assemble(config: ModelConfig, model: TensorSource, codec: TensorSource, options: LoadOptions) -> SpeechModel:
    """A model from two sources of tensors, which are named and shaped as in a checkpoint. Raises WeightsError."""
    with torch.device("meta"):
        speech = SpeechModel(config, options.encoders)
    place = _placement(options)
    fill(speech, model_weights(config), model, place)
    fill(speech, codec_weights(config.codec), codec, place)
    move_buffers(speech, place)
    if options.fold_projection:
        speech.code_predictor.fold_projection()
    if options.fold_text:
        speech.talker.text.fold()
    return speech.eval()


def _placement(options: LoadOptions) -> Place:
    device = torch.device(options.device)
    table = torch.device(options.text_table_device or options.device)

    def place(name: str) -> tuple[torch.device, torch.dtype]:
        part, leaf = name.split(".")[0], name.rpartition(".")[2]
        if part in ("encoder", "speaker_encoder") or leaf in ("frequency", "gain"):
            return device, torch.float32
        if part == "decoder":
            return device, options.codec_dtype
        return (table if name == "talker.text.table" else device), options.dtype

    return place
