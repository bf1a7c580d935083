"""Our networks against the reference package itself, with fresh weights, texts and sounds on every run.

PARITY_SEED repeats a run; the seed is in the test's name.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint.load import load
from engine.checkpoint.weight_map import codec_weights, model_weights
from engine.model.speech_model import SpeechModel
from engine.testing.tiny_checkpoint import build
from engine.voices.mel import log_mel
from tests.engine.support.greedy_decoding import speak
from tests.engine.support.random_inputs import codes, sound
from tests.engine.support.tiny_models import FLOAT32
from tests.parity.reference import GREEDY, Trace, import_reference, load_reference, traced

try:
    import_reference()
except ImportError as reason:
    pytest.skip(f"the reference package is not installed ({reason})", allow_module_level=True)

SEED = int(os.environ.get("PARITY_SEED", random.SystemRandom().randrange(1 << 20)))
WORDS = "hello world the door is open 你好 今天 天气 😀 naïve Haustür speak 7 o'clock добрый вечер こんにちは".split()  # noqa: SIM905
LANGUAGES = ("English", "Auto", "Chinese", "German")
SAMPLES = 14


@dataclass(frozen=True)
class Pair:
    theirs: Any
    ours: SpeechModel
    chance: random.Random

    def text(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=self.chance.randint(1, 25)))

    def recording(self) -> Any:
        return sound(self.chance.uniform(0.5, 3.0), self.chance.randrange(1 << 20))


@pytest.fixture(scope="module", params=["base-1b7", "base-0b6", "custom_voice-1b7", "voice_design-1b7"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind, size = request.param.split("-")
    directory: Path = build(tmp_path_factory.mktemp(request.param), kind, size, seed=SEED)
    print(f"\nPARITY_SEED={SEED}")
    return Pair(load_reference(directory), load(directory, FLOAT32), random.Random(f"{SEED}{request.param}"))


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def generate(pair: Pair, items: int) -> Trace:
    """One greedy call of the reference in a random mode."""
    chance = pair.chance
    texts = [pair.text() for _ in range(items)]
    shared = {"language": chance.choices(LANGUAGES, k=items), "non_streaming_mode": chance.random() < 0.5}
    shared |= GREEDY | {"max_new_tokens": SAMPLES}
    with traced(pair.theirs) as trace:
        match pair.ours.config.model_type:
            case "base":
                heard = [(pair.recording(), 24_000) for _ in range(items)]
                icl = chance.random() < 0.6
                spoken = {"ref_text": [pair.text() for _ in range(items)]} if icl else {}
                pair.theirs.generate_voice_clone(texts, ref_audio=heard, x_vector_only_mode=not icl, **spoken, **shared)
            case "custom_voice":
                speakers = chance.choices(["ryan", "dylan", "eric", "vivian"], k=items)
                pair.theirs.generate_custom_voice(texts, speakers, instruct=[pair.text()] * items, **shared)
            case _:
                pair.theirs.generate_voice_design(texts, [pair.text()] * items, **shared)
    return trace


@pytest.mark.parametrize("items", [1, 2, 3])
def test_greedy_codes_equal_the_reference(pair: Pair, items: int) -> None:
    trace = generate(pair, items)
    for item in range(items):
        steps = len(trace.codes[item])
        ours = speak(pair.ours, trace.prompt(item), trace.trailing[item], trace.pad, steps + 1)
        assert relative(ours.hidden, torch.stack([step[item] for step in trace.hidden[: steps + 1]])) < 1e-4
        assert relative(ours.logits, torch.stack([step[item] for step in trace.logits[: steps + 1]])) < 1e-4
        passes = torch.stack([logits[item] for logits in trace.predictor[: 15 * steps]])
        assert relative(ours.predictor, passes) < 1e-4
        assert torch.equal(ours.codes, trace.codes[item])


@torch.inference_mode()
def test_codec_decoder_equals_the_reference(pair: Pair) -> None:
    frames = pair.chance.randint(310, 340)
    given = torch.from_numpy(codes(1, frames, pair.chance.randrange(1 << 20)))
    decoder, state = pair.theirs.model.speech_tokenizer.model.decoder, pair.ours.decoder.allocate(1)
    whole = decoder(given)[:, 0]
    assert (pair.ours.decoder.decode(given) - whole).abs().max() < 1e-4
    assert (pair.ours.decoder.chunked(given) - decoder.chunked_decode(given)[:, 0]).abs().max() < 1e-4
    pieces = [pair.ours.decoder.step(piece, torch.tensor([0]), state) for piece in given.split(7, dim=-1)]
    assert (torch.cat(pieces, -1) - whole).abs().max() < 1e-4


@torch.inference_mode()
def test_encoders_equal_the_reference(pair: Pair) -> None:
    if pair.ours.encoder is None:
        pytest.skip("only Base checkpoints clone voices")
    for _ in range(3):
        wave = pair.recording()
        theirs = pair.theirs.model.speech_tokenizer.encode([wave], sr=24_000).audio_codes[0]
        assert torch.equal(pair.ours.encoder(torch.from_numpy(wave)[None])[0].T, theirs)
        vector = pair.ours.speaker_encoder(log_mel(torch.from_numpy(wave)[None]))[0]
        assert relative(vector, pair.theirs.model.extract_speaker_embedding(wave, 24_000)) < 1e-4


def test_weight_map_names_every_tensor_of_the_reference(pair: Pair) -> None:
    config = pair.ours.config
    for theirs, ours in (
        (pair.theirs.model, model_weights(config)),
        (pair.theirs.model.speech_tokenizer.model, codec_weights(config.codec)),
    ):
        assert {name: tuple(value.shape) for name, value in theirs.state_dict().items()} == ours.tensors()
