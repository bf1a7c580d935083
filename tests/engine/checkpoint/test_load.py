"""Loading: every kind of checkpoint, and one clear error for each way in which it can go wrong."""

from __future__ import annotations

import errno
import io
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from engine.checkpoint.hub import WANTED_FILES
from engine.checkpoint.load import (
    CheckpointError,
    DownloadError,
    IncompleteError,
    LoadOptions,
    WeightsError,
    assemble,
    find_checkpoint,
    load,
    read_config,
)
from engine.testing.tiny_checkpoint import build, codec_tensors, model_tensors
from tests.engine.support.tiny_models import FLOAT32, tiny_directory, tiny_model

HUB_ID = "Qwen/Qwen3-TTS-12Hz-0.6B-Base"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint of its own, to be spoilt."""
    return Path(shutil.copytree(tiny_directory(), tmp_path / "checkpoint"))


# --- weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "custom_voice", "voice_design"])
@pytest.mark.parametrize("size", ["1b7", "0b6"])
def test_load_fills_every_tensor_of_every_model_kind(kind: str, size: str) -> None:
    model = tiny_model(kind, size)
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_meta or tensor.requires_grad for tensor in tensors)
    assert not model.training
    assert (model.encoder is not None) == (model.speaker_encoder is not None) == (kind == "base")
    assert (model.code_predictor.projected is not None) == (size == "1b7")


def test_load_uses_dtype_by_part() -> None:
    model = load(tiny_directory(), LoadOptions(device="cpu", dtype=torch.bfloat16))
    assert model.talker.codes.weight.dtype == model.code_predictor.heads.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.decoder.parameters()} == {torch.float32}
    half = load(tiny_directory(), LoadOptions(device="cpu", codec_dtype=torch.bfloat16))
    assert half.decoder.pre_conv.weight.dtype == torch.bfloat16
    assert half.decoder.snake.frequency.dtype == torch.float32
    assert {parameter.dtype for parameter in half.encoder.parameters()} == {torch.float32}


def test_load_accepts_files_without_metadata_and_in_bfloat16(tmp_path: Path) -> None:
    directory = build(tmp_path, dtype=torch.bfloat16, metadata=False)
    ours = load(directory, FLOAT32).talker.layers[0].attention.qkv.weight
    torch.testing.assert_close(ours, tiny_model().talker.layers[0].attention.qkv.weight, atol=0, rtol=2**-8)


class MemorySource:
    """Tensors that already exist, as a `TensorSource`."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.name, self.get = "memory", tensors.__getitem__
        self.shapes = {key: tuple(value.shape) for key, value in tensors.items()}


def test_assemble_accepts_tensors_in_memory() -> None:
    config = read_config(tiny_directory())
    model = assemble(config, MemorySource(model_tensors(config)), MemorySource(codec_tensors(config)), FLOAT32)
    for name, parameter in tiny_model().named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


def test_load_names_all_wrong_tensors_in_one_error(copy: Path) -> None:
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors["talker.model.norm.weight"], tensors["talker.codec_head.weight"]
    tensors["talker.model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 4)
    tensors["talker.surplus"] = torch.zeros(1)
    save_file(tensors, file)
    with pytest.raises(WeightsError) as caught:
        load(copy, FLOAT32)
    message = str(caught.value)
    assert str(file) in message
    assert "2 missing: talker.codec_head.weight, talker.model.norm.weight" in message
    assert "1 unknown: talker.surplus" in message
    assert "talker.model.layers.0.mlp.up_proj.weight is [3, 4], not [128, 64]" in message


@pytest.mark.parametrize("kept", [0, 5, 5_000, -100])
def test_load_reports_truncated_file(copy: Path, kept: int) -> None:
    file = copy / "speech_tokenizer/model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="truncated or corrupt") as caught:
        load(copy, FLOAT32)
    assert str(file) in str(caught.value)


def test_load_reports_missing_weights_file(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read"):
        load(copy, FLOAT32)


# --- finding and downloading ------------------------------------------------------------------------------------


def test_find_checkpoint_rejects_incomplete_directory(copy: Path) -> None:
    assert find_checkpoint(str(copy)) == copy
    (copy / "merges.txt").unlink()
    (copy / "speech_tokenizer/config.json").unlink()
    with pytest.raises(IncompleteError, match=r"lacks speech_tokenizer/config\.json, merges\.txt"):
        find_checkpoint(str(copy))


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "nowhere", "a/b/c"])
def test_find_checkpoint_rejects_name_that_is_neither_directory_nor_hub_id(name: str) -> None:
    with pytest.raises(DownloadError, match="not an existing directory"):
        find_checkpoint(name)


def test_find_checkpoint_downloads_needed_files_only(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    asked = {}

    def snapshot(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert find_checkpoint(HUB_ID, revision="abc", offline=True, cache=Path("/cache")) == copy
    assert asked == {
        "name": HUB_ID,
        "revision": "abc",
        "cache_dir": Path("/cache"),
        "local_files_only": True,
        "allow_patterns": list(WANTED_FILES),
    }


def refused(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    return kind("refused", response=httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co")))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (refused(errors.GatedRepoError, 403), "Accept its terms"),
        (refused(errors.RepositoryNotFoundError, 404), "no such repository"),
        (refused(errors.RevisionNotFoundError, 404), "revision 'v9' does not exist"),
        (refused(errors.HfHubHTTPError, 401), "answered 401.*HF_TOKEN"),
        (refused(errors.HfHubHTTPError, 403), "answered 403.*HF_TOKEN"),
        (refused(errors.HfHubHTTPError, 503), "answered 503.*Try again later"),
        (errors.LocalEntryNotFoundError("not cached"), "hub cannot be reached or offline"),
        (httpx.ReadTimeout("slow"), "broke off.*resumes"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "cache cannot be written"),
    ],
)
def test_download_error_names_remedy(monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str) -> None:
    def snapshot(name: str, **_: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(DownloadError, match=expected) as caught:
        find_checkpoint(HUB_ID, revision="v9")
    assert HUB_ID in str(caught.value)
    assert caught.value.__cause__ is error
    assert isinstance(caught.value, CheckpointError)


def test_find_checkpoint_offline_without_cache_names_remedy(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="pass the path of a copied directory"):
        find_checkpoint(HUB_ID, offline=True, cache=tmp_path)


def test_long_download_logs_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    blobs = tmp_path / f"models--{HUB_ID.replace('/', '--')}" / "blobs"

    def slow(*arguments: object, **options: object) -> str:
        blobs.mkdir(parents=True)
        with (blobs / "abc.incomplete").open("wb") as file:
            file.truncate(2_340_000_000)
        deadline = time.monotonic() + 10
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        return str(tiny_directory())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", slow)
    monkeypatch.setattr("engine.checkpoint.hub.PROGRESS_INTERVAL_S", 0.02)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with caplog.at_level("INFO", "engine.checkpoint.hub"):
        find_checkpoint(HUB_ID, cache=tmp_path)
    assert f"{HUB_ID}: 2.34 GB downloaded so far" in caplog.messages
