"""Our public API against the reference's, call by call: greedy codes and waveforms, in every mode and both layouts.

Weights, texts, recordings and options are new on every run; PARITY_SEED repeats one.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import engine
from engine.testing.tiny_checkpoint import build
from tests.engine.support.api_trace import codes_of
from tests.engine.support.random_inputs import codes, sound
from tests.parity.reference import GREEDY, import_reference, load_reference, traced

try:
    import_reference()
except ImportError as reason:
    pytest.skip(f"the reference package is not installed ({reason})", allow_module_level=True)

torch.set_num_threads(1)
SEED = int(os.environ.get("PARITY_SEED", random.SystemRandom().randrange(1 << 20)))
CASES = int(os.environ.get("PARITY_CASES", 2))
WORDS = "hello world the door is open 你好 今天 天气 😀 naïve Haustür speak 7 o'clock добрый вечер こんにちは".split()  # noqa: SIM905
LANGUAGES = ("English", "Auto", "Chinese", "German", "chinese")
SAMPLES = 14
WORST = {"waves": 0.0, "cases": 0}
ENDING = ("base-1b7-ends", "custom_voice-0b6-ends", "voice_design-1b7-ends")
TEXT_MODES = pytest.mark.parametrize("whole_text", [False, True], ids=["stepwise", "at-once"])
SIZES = pytest.mark.parametrize("items", [1, 3], ids=["single", "batch"])


def checkpoints(*kinds: str) -> pytest.MarkDecorator:
    """Run a test on every tiny checkpoint of these kinds, each loaded once for the module."""
    layouts = [f"{kind}-{size}" for kind in kinds for size in ("1b7", "0b6")]
    ending = [name for name in ENDING if name.split("-")[0] in kinds]
    return pytest.mark.parametrize("pair", layouts + ending, indirect=True, scope="module")


BASE, CUSTOM_VOICE, VOICE_DESIGN = checkpoints("base"), checkpoints("custom_voice"), checkpoints("voice_design")
ALL = checkpoints("base", "custom_voice", "voice_design")


@dataclass(frozen=True)
class Pair:
    """The same checkpoint in both packages."""

    theirs: Any
    ours: Any
    kind: str
    ends: bool
    chance: random.Random

    def text(self, most: int = 25) -> str:
        return " ".join(self.chance.choices(WORDS, k=self.chance.randint(1, most)))

    def texts(self, items: int) -> Any:
        return self.text() if items == 1 else [self.text() for _ in range(items)]

    def languages(self, items: int) -> Any:
        return self.chance.choice([None, self.chance.choice(LANGUAGES), self.chance.choices(LANGUAGES, k=items)])

    def recording(self, seconds: float = 3.0) -> tuple[np.ndarray, int]:
        return sound(self.chance.uniform(0.5, seconds), self.chance.randrange(1 << 20)), 24_000

    def options(self) -> dict[str, Any]:
        """Greedy, with one of the penalties that scripts use; None leaves it to generation_config.json."""
        penalty = self.chance.choice([{}, {"repetition_penalty": 1.0}, {"repetition_penalty": 1.05}])
        return GREEDY | penalty | {"max_new_tokens": 60 if self.ends else self.chance.randint(2, SAMPLES)}

    def plainest(self) -> tuple[str, dict[str, Any]]:
        """The method for this kind of checkpoint, and what it cannot do without."""
        return {
            "base": ("generate_voice_clone", {"ref_audio": self.recording(), "x_vector_only_mode": True}),
            "custom_voice": ("generate_custom_voice", {"speaker": "ryan"}),
            "voice_design": ("generate_voice_design", {"instruct": self.text(5)}),
        }[self.kind]


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind, size, *ends = request.param.split("-")
    directory: Path = build(tmp_path_factory.mktemp(request.param), kind, size, seed=SEED, eos_gain=2.0 if ends else 0)
    print(f"\nPARITY_SEED={SEED}")
    ours = engine.Qwen3TTSModel.from_pretrained(str(directory), device_map="cpu", torch_dtype=torch.float32, slots=3)
    return Pair(load_reference(directory), ours, kind, bool(ends), random.Random(f"{SEED}{request.param}"))


@pytest.fixture(scope="module", autouse=True)
def figures(request: pytest.FixtureRequest) -> Any:
    """Report at the end how much was compared; output capture would swallow a print."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{WORST['cases']} utterances, worst wave error {WORST['waves']:.2g}, PARITY_SEED={SEED}")


def agree(pair: Pair, method: str, *given: Any, theirs: Any = None, ours: Any = None, **options: Any) -> None:
    """Both packages make the same of the same call; `theirs` and `ours` are keywords for one of them only."""
    with traced(pair.theirs) as trace:
        their_waves, their_rate = getattr(pair.theirs, method)(*given, **options, **(theirs or {}))
    with codes_of(pair.ours) as our_codes:
        our_waves, our_rate = getattr(pair.ours, method)(*given, **options, **(ours or {}))
    assert our_rate == their_rate
    assert isinstance(our_waves, list)
    assert len(our_waves) == len(their_waves) == len(trace.codes)
    for mine, wave, reference, their_wave in zip(our_codes, our_waves, trace.codes, their_waves, strict=True):
        assert torch.equal(mine, reference)
        same_wave(wave, their_wave, len(reference))


def same_wave(wave: np.ndarray, theirs: np.ndarray, frames: int) -> None:
    """Rounding leaves the last sample of the recording in front of some of the reference's waves."""
    assert wave.dtype == theirs.dtype == np.float32
    assert len(wave) == 1920 * frames
    assert len(theirs) - len(wave) in (0, 1)
    error = float(np.abs(wave - theirs[len(theirs) - len(wave) :]).max())
    WORST.update(waves=max(WORST["waves"], error), cases=WORST["cases"] + 1)
    assert error < 1e-4


@BASE
@TEXT_MODES
@SIZES
@pytest.mark.parametrize("in_context", [False, True], ids=["x-vector", "in-context"])
def test_voice_clone_from_recordings_equals_the_reference(
    pair: Pair, whole_text: bool, items: int, in_context: bool
) -> None:
    for _ in range(CASES):
        words = {"ref_text": pair.text()} if in_context else {"x_vector_only_mode": True}
        agree(pair, "generate_voice_clone", pair.texts(items), pair.languages(items), ref_audio=pair.recording(),
              non_streaming_mode=whole_text, **words, **pair.options())  # fmt: skip


@BASE
@TEXT_MODES
def test_voice_clone_from_prompts_of_both_packages_equals_the_reference(pair: Pair, whole_text: bool) -> None:
    for _ in range(CASES):
        heard = [(pair.recording(), pair.text(8), pair.chance.random() < 0.3) for _ in range(3)]
        theirs = [pair.theirs.create_voice_clone_prompt(*each)[0] for each in heard]
        ours = [pair.ours.create_voice_clone_prompt(*each)[0] for each in heard]
        for mine, item in zip(ours, theirs, strict=True):
            same_prompt(mine, item)
        prompts = {"theirs": {"voice_clone_prompt": theirs}}
        shared = (pair.texts(3), pair.languages(3))
        options = pair.options() | {"non_streaming_mode": whole_text}
        agree(pair, "generate_voice_clone", *shared, **prompts, ours={"voice_clone_prompt": ours}, **options)
        agree(pair, "generate_voice_clone", *shared, **prompts, ours={"voice_clone_prompt": theirs}, **options)


def same_prompt(mine: Any, item: Any) -> None:
    assert (mine.x_vector_only_mode, mine.icl_mode, mine.ref_text) == (
        item.x_vector_only_mode,
        item.icl_mode,
        item.ref_text,
    )
    assert (mine.ref_code is None) == (item.ref_code is None)
    assert mine.ref_code is None or torch.equal(mine.ref_code, item.ref_code)
    assert mine.ref_spk_embedding.shape == item.ref_spk_embedding.shape
    scale = item.ref_spk_embedding.abs().max()
    assert (mine.ref_spk_embedding - item.ref_spk_embedding).abs().max() < 1e-4 * scale


@BASE
@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_voice_clone_from_files_at_other_rates_equals_the_reference(pair: Pair, rate: int, tmp_path: Path) -> None:
    left, right = (sound(1.7, pair.chance.randrange(1 << 20), rate) for _ in range(2))
    file = str(tmp_path / "voice.wav")
    soundfile.write(file, np.stack([left, right], axis=1), rate)
    same_prompt(
        pair.ours.create_voice_clone_prompt(file, "hello")[0], pair.theirs.create_voice_clone_prompt(file, "hello")[0]
    )


@BASE
@TEXT_MODES
def test_voice_clone_from_long_references_equals_the_reference(pair: Pair, whole_text: bool) -> None:
    recording = sound(22.4, pair.chance.randrange(1 << 20)), 24_000  # 280 frames
    options = pair.options() | {"max_new_tokens": 21}
    agree(pair, "generate_voice_clone", pair.text(), ref_audio=recording, ref_text=pair.text(),
          non_streaming_mode=whole_text, **options)  # fmt: skip


@CUSTOM_VOICE
@TEXT_MODES
@SIZES
def test_custom_voice_equals_the_reference(pair: Pair, whole_text: bool, items: int) -> None:
    speakers = pair.ours.get_supported_speakers()
    for case in range(2 * CASES):
        instruct = [None, "", pair.text(6), [pair.text(6) for _ in range(items)]][case % 4]
        speaker = pair.chance.choices(speakers, k=items) if case % 2 else pair.chance.choice(speakers).title()
        agree(pair, "generate_custom_voice", pair.texts(items), speaker, pair.languages(items), instruct,
              non_streaming_mode=whole_text, **pair.options())  # fmt: skip


@CUSTOM_VOICE
@TEXT_MODES
@pytest.mark.parametrize(
    ("speaker", "language"),
    [("dylan", "Auto"), ("dylan", None), ("eric", "Chinese"), ("eric", "English"), ("Vivian", "chinese")],
)
def test_dialects_equal_the_reference(pair: Pair, whole_text: bool, speaker: str, language: str | None) -> None:
    agree(pair, "generate_custom_voice", pair.text(), speaker, language, non_streaming_mode=whole_text,
          **pair.options())  # fmt: skip


@VOICE_DESIGN
@TEXT_MODES
@SIZES
def test_voice_design_equals_the_reference(pair: Pair, whole_text: bool, items: int) -> None:
    for case in range(2 * CASES):
        instruct = ["", pair.text(9), [pair.text(9) for _ in range(items)]][case % 3]
        agree(pair, "generate_voice_design", pair.texts(items), instruct, pair.languages(items),
              non_streaming_mode=whole_text, **pair.options())  # fmt: skip


@ALL
def test_defaults_equal_the_reference(pair: Pair) -> None:
    """Nothing given but what must be: text mode, language and penalty are the packages' own."""
    method, given = pair.plainest()
    agree(pair, method, pair.text(), **given, **GREEDY, max_new_tokens=SAMPLES)


@ALL
@pytest.mark.parametrize("how", [{}, {"windowed_decode": True}, {"async_decode": True}], ids=str)
def test_joined_batch_streams_equal_the_reference(pair: Pair, how: dict[str, Any]) -> None:
    """The reference cannot stream: its whole clips, greedy, from the text step by step as the streams read it."""
    method, given = pair.plainest()
    shared = GREEDY | {"repetition_penalty": 1.0, "max_new_tokens": 60 if pair.ends else SAMPLES}
    texts, languages = pair.texts(3), pair.languages(3)
    with traced(pair.theirs) as trace:
        clips, _ = getattr(pair.theirs, method)(texts, language=languages, non_streaming_mode=False, **given, **shared)
    if pair.kind == "base":
        given = {"voice_clone_prompt": pair.ours.create_voice_clone_prompt(**given)}
    stream = getattr(pair.ours, f"batch_stream_{method}")
    rounds = [waves for waves, _ in stream(texts, language=languages, emit_every_frames=5, **given, **shared, **how)]
    for clip, codes_, waves in zip(clips, trace.codes, zip(*rounds, strict=True), strict=True):
        wave = np.concatenate(waves)
        edge = 512 if "windowed_decode" in how else 0  # windows rise and fall
        assert len(wave) == 1920 * len(codes_)
        same_wave(np.pad(wave[edge : len(wave) - edge], edge), np.pad(clip[edge : len(clip) - edge], edge), len(codes_))


@pytest.mark.parametrize("pair", ENDING, indirect=True, scope="module")
def test_speech_ends_where_that_of_the_reference_ends(pair: Pair) -> None:
    method, given = pair.plainest()
    texts = [pair.text(6) for _ in range(4)]
    agree(pair, method, texts, **given, **GREEDY, max_new_tokens=150)
    waves, _ = getattr(pair.ours, method)(texts, **given, **GREEDY, max_new_tokens=150)
    assert min(map(len, waves)) < 149 * 1920


@ALL
def test_supported_names_equal_the_reference(pair: Pair) -> None:
    assert pair.ours.get_supported_speakers() == pair.theirs.get_supported_speakers()
    assert pair.ours.get_supported_languages() == pair.theirs.get_supported_languages()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    directory = str(build(tmp_path_factory.mktemp("codec"), seed=SEED) / "speech_tokenizer")
    theirs = import_reference().Qwen3TTSTokenizer.from_pretrained(directory, dtype=torch.float32)
    return theirs, engine.Qwen3TTSTokenizer.from_pretrained(directory, device="cpu")


def test_tokenizer_rates_equal_the_reference(tokenizers: tuple[Any, Any]) -> None:
    theirs, ours = tokenizers
    for name in ("model_type", "input_sample_rate", "output_sample_rate",
                 "encode_downsample_rate", "decode_upsample_rate"):  # fmt: skip
        assert getattr(ours, f"get_{name}")() == getattr(theirs, f"get_{name}")()


def test_tokenizer_encode_equals_the_reference(tokenizers: tuple[Any, Any]) -> None:
    theirs, ours = tokenizers
    for rate, seconds in ((24_000, 1.3), (16_000, 2.1), (44_100, 0.7)):
        wave = sound(seconds, SEED % 999, rate)
        assert torch.equal(ours.encode(wave, sr=rate).audio_codes[0], theirs.encode(wave, sr=rate).audio_codes[0])
    waves = [sound(1.2, seed) for seed in range(3)]
    mine, their = ours.encode(waves, 24_000).audio_codes, theirs.encode(waves, 24_000).audio_codes
    assert all(torch.equal(*both) for both in zip(mine, their, strict=True))


def test_tokenizer_decode_of_windows_equals_the_reference(tokenizers: tuple[Any, Any]) -> None:
    theirs, ours = tokenizers
    window = torch.from_numpy(codes(2, 80, SEED))  # [2, 16, 80]
    with torch.inference_mode():
        their = theirs.model.decoder(window)[:, 0].numpy()
    for mine in (ours.decode_streaming_batch(window.mT)[0], [ours.decode_streaming(each.T)[0][0] for each in window]):
        assert max(np.abs(a - b).max() for a, b in zip(mine, their, strict=True)) < 1e-4


def test_tokenizer_decode_equals_the_reference(tokenizers: tuple[Any, Any]) -> None:
    theirs, ours = tokenizers
    given = [torch.from_numpy(codes(1, frames, SEED + frames)[0].T.copy()) for frames in (1, 40, 330)]
    padded = torch.nn.utils.rnn.pad_sequence(given, batch_first=True, padding_value=-1)
    for encoded in ([{"audio_codes": each} for each in given], {"audio_codes": padded}, {"audio_codes": given[1]},
                    {"audio_codes": [each.numpy() for each in given]}):  # fmt: skip
        (mine, rate), (their, their_rate) = ours.decode(encoded), theirs.decode(encoded)
        assert rate == their_rate
        assert [len(wave) for wave in mine] == [len(wave) for wave in their]
        assert max(np.abs(a - b).max() for a, b in zip(mine, their, strict=True)) < 1e-4
