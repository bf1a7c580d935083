"""The networks against recorded values of the reference package for the same tiny checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.model.talker import BatchRows
from engine.voices.mel import log_mel
from tests.engine.support.goldens_format import (
    CHUNKS,
    CODE_FRAMES,
    DIRECTORY,
    LOGIT_STRIDE,
    RECORDINGS_S,
    WAVE_STRIDE,
    weights_hash,
)
from tests.engine.support.greedy_decoding import prefill, speak
from tests.engine.support.random_inputs import codes, sound
from tests.engine.support.tiny_models import tiny_directory, tiny_model

SPOKEN = [("base", "1b7", case) for case in ("alone", "batch0", "batch1", "batch2")]
SPOKEN += [("base", "0b6", case) for case in ("alone", "batch0", "batch1", "batch2")]
SPOKEN += [("custom_voice", "1b7", case) for case in ("streaming", "whole")]
RELATIVE = 1e-4


def golden(kind: str, size: str, case: str) -> dict[str, torch.Tensor]:
    with np.load(DIRECTORY / f"{kind}-{size}.npz") as arrays:
        names = [name for name in arrays.files if name.startswith(f"{case}.")]
        return {name.partition(".")[2]: torch.from_numpy(arrays[name]) for name in names}


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= RELATIVE * theirs.abs().max()


@pytest.mark.parametrize(("kind", "size"), [("base", "1b7"), ("base", "0b6"), ("custom_voice", "1b7")])
def test_goldens_belong_to_these_weights(kind: str, size: str) -> None:
    with np.load(DIRECTORY / f"{kind}-{size}.npz") as arrays:
        expected = arrays["hashes"].tolist()
    directory = tiny_directory(kind, size)
    files = ("model.safetensors", "speech_tokenizer/model.safetensors")
    assert [weights_hash(directory / file) for file in files] == expected


@pytest.mark.parametrize(("kind", "size", "case"), SPOKEN)
def test_greedy_codes_equal_the_reference(kind: str, size: str, case: str) -> None:
    theirs = golden(kind, size, case)
    ours = speak(tiny_model(kind, size), theirs["prompt"], theirs["trailing"], theirs["pad"], len(theirs["codes"]) + 1)
    assert torch.equal(ours.codes, theirs["codes"].long())
    close(ours.hidden, theirs["hidden"])
    close(ours.logits[:, ::LOGIT_STRIDE], theirs["logits"])
    close(ours.predictor[:15, ::LOGIT_STRIDE], theirs["predictor"])


@torch.inference_mode()
@pytest.mark.parametrize("size", ["1b7", "0b6"])
def test_prefill_of_unequal_prompts_equals_the_reference(size: str) -> None:
    talker, cases = tiny_model(size=size).talker, [golden("base", size, f"batch{item}") for item in range(3)]
    prompts = [case["prompt"] for case in cases]
    inputs = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    rows = BatchRows(torch.tensor([3, 0, 2]), torch.zeros(3, dtype=torch.int64), 128)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    hidden, logits = prefill(talker, inputs, talker.allocate(4, 128), rows, lengths)
    close(hidden, torch.stack([case["hidden"][0] for case in cases]))
    close(logits[:, ::LOGIT_STRIDE], torch.stack([case["logits"][0] for case in cases]))


@torch.inference_mode()
def test_codec_decoder_equals_the_reference() -> None:
    theirs, decoder, given = (
        golden("base", "1b7", "codec"),
        tiny_model().decoder,
        torch.from_numpy(codes(1, CODE_FRAMES)),
    )
    assert (decoder.decode(given)[0, ::WAVE_STRIDE] - theirs["whole"]).abs().max() < 1e-4
    assert (decoder.chunked(given, *CHUNKS)[0, ::WAVE_STRIDE] - theirs["chunked"]).abs().max() < 1e-4
    stream = decoder.step(given, torch.tensor([1]), decoder.allocate(2))[0]
    assert (stream[::WAVE_STRIDE] - theirs["whole"]).abs().max() < 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("index", range(len(RECORDINGS_S)))
def test_codec_encoder_equals_the_reference(index: int) -> None:
    wave = torch.from_numpy(sound(RECORDINGS_S[index], index))
    ours = tiny_model().encoder(wave[None])[0].T
    assert torch.equal(ours, golden("base", "1b7", "codec")[f"encoded{index}"].long())


@torch.inference_mode()
def test_mel_and_speaker_encoder_equal_the_reference() -> None:
    theirs, mel = golden("base", "1b7", "codec"), log_mel(torch.from_numpy(sound(RECORDINGS_S[1], 1))[None])
    assert (mel[0, ::4] - theirs["mel"]).abs().max() < 1e-4
    close(tiny_model().speaker_encoder(mel)[0], theirs["speaker"])
