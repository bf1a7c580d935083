"""Config files: sizes as published, and errors that name file and key."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.weight_map import codec_weights, model_weights
from engine.model.config import CODEC_FILE, MODEL_FILE, ConfigError, read_config
from engine.testing.tiny_checkpoint import full_config
from tests.engine.support.tiny_models import tiny_directory


def copied(tmp_path: Path, kind: str = "base") -> Path:
    """The config files of a tiny checkpoint, to be spoilt."""
    for file in (MODEL_FILE, CODEC_FILE):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(tiny_directory(kind) / file, tmp_path / file)
    return tmp_path


def spoil(directory: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((directory / file).read_text())
    change(values)
    (directory / file).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("size", "kind", "tensors", "parameters"),
    [
        ("0b6", "base", 478, 914_643_008),
        ("0b6", "custom_voice", 402, 905_788_672),
        ("1b7", "base", 480, 1_928_677_440),
        ("1b7", "custom_voice", 404, 1_916_676_352),
        ("1b7", "voice_design", 404, 1_916_676_352),
    ],
)
def test_full_size_checkpoints_have_the_published_totals(
    tmp_path: Path, size: str, kind: str, tensors: int, parameters: int
) -> None:
    config = full_config(tmp_path, size, kind)
    shapes = model_weights(config).tensors()
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, parameters)
    codec = codec_weights(config.codec).tensors()
    decoder = [math.prod(shape) for name, shape in codec.items() if name.startswith("decoder.")]
    assert (len(codec), len(decoder), sum(decoder)) == (496, 271, 114_323_137)
    assert sum(map(math.prod, codec.values())) - sum(decoder) == 56_234_304


def test_read_config_reads_ids_speakers_and_dialects() -> None:
    talker = read_config(tiny_directory("custom_voice")).talker
    assert (talker.ids.eos, talker.speakers["ryan"], talker.languages["english"]) == (2150, 3061, 2050)
    assert talker.dialects == {"eric": "sichuan_dialect", "dylan": "beijing_dialect"}


def test_speaker_encoder_sizes_default_to_the_published_architecture(tmp_path: Path) -> None:
    speaker = full_config(tmp_path, "1b7").speaker_encoder
    assert speaker is not None
    assert (speaker.output_size, speaker.channels[-1], speaker.scale) == (2048, 1536, 8)
    assert full_config(tmp_path, "1b7", "voice_design").speaker_encoder is None


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        (MODEL_FILE, lambda c: c.update(model_type="llama"), r"'model_type' is 'llama'.*'qwen3_tts'"),
        (MODEL_FILE, lambda c: c.update(tokenizer_type="qwen3_tts_tokenizer_25hz"), "'tokenizer_type' is .*25hz"),
        (MODEL_FILE, lambda c: c.update(tts_model_type="singing"), "'tts_model_type' is 'singing'"),
        (MODEL_FILE, lambda c: c.pop("talker_config"), "'talker_config' is missing"),
        (MODEL_FILE, lambda c: c["talker_config"].pop("head_dim"), "'talker_config.head_dim' is missing"),
        (
            MODEL_FILE,
            lambda c: c["talker_config"]["code_predictor_config"].update(hidden_size="wide"),
            "'talker_config.code_predictor_config.hidden_size' must be a whole number, not 'wide'",
        ),
        (MODEL_FILE, lambda c: c.update(talker_config=[]), "talker_config must be a JSON object"),
        (CODEC_FILE, lambda c: c.update(model_type="mimi"), "'model_type' is 'mimi'"),
        (CODEC_FILE, lambda c: c["decoder_config"].update(upsample_rates=8), "upsample_rates' must be a list"),
        (CODEC_FILE, lambda c: c["encoder_config"].update(use_causal_conv=False), "use_causal_conv' is False"),
    ],
)
def test_config_error_names_file_and_key(
    tmp_path: Path, file: str, change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    directory = copied(tmp_path)
    spoil(directory, file, change)
    with pytest.raises(ConfigError, match=expected) as caught:
        read_config(directory)
    assert str(directory / file) in str(caught.value)


def test_read_config_rejects_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)
    directory = copied(tmp_path)
    (directory / CODEC_FILE).write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        read_config(directory)
