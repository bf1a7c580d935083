"""Writes tests/engine/goldens/*.npz from the reference package, run in its own environment.

    python -m tests.parity.make_goldens
Long arrays are thinned by a stride: a wrong network differs everywhere, and the files stay small.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.testing.tiny_checkpoint import build
from tests.engine.support.goldens_format import (
    API_CASES,
    API_EOS_GAIN,
    API_SAMPLES,
    API_WAVE_STRIDE,
    CHUNKS,
    CODE_FRAMES,
    DIRECTORY,
    LOGIT_STRIDE,
    RECORDINGS_S,
    WAVE_STRIDE,
    weights_hash,
)
from tests.engine.support.random_inputs import codes, sound
from tests.parity.reference import GREEDY, Trace, load_reference, traced

SAMPLES = 12
LONG_TEXT = "your washing machine has finished, and the timer for the tea has ended. " * 2


def spoken(trace: Trace, item: int = 0) -> dict[str, np.ndarray]:
    """What one item of a generation looked like."""
    steps = len(trace.codes[item])
    passes = [logits[item] for logits in trace.predictor[: 15 * steps]]
    return {
        "prompt": trace.prompt(item).numpy(),
        "trailing": trace.trailing[item].numpy(),
        "codes": trace.codes[item].numpy().astype(np.int16),
        "hidden": torch.stack([hidden[item] for hidden in trace.hidden[: steps + 1]]).numpy(),
        "logits": torch.stack([logits[item, ::LOGIT_STRIDE] for logits in trace.logits[: steps + 1]]).numpy(),
        "predictor": torch.stack([logits[::LOGIT_STRIDE] for logits in passes[:15]]).numpy(),
        "pad": trace.pad.numpy(),
    }


def base_cases(model: Any) -> dict[str, dict[str, np.ndarray]]:
    """Voice cloning, alone and as a batch of unequal prompts."""
    recordings = [(sound(seconds, seed), 24_000) for seed, seconds in enumerate(RECORDINGS_S)]
    options = GREEDY | {"max_new_tokens": SAMPLES}
    with traced(model) as alone:
        model.generate_voice_clone(
            "hello world, 你好 😀", "English", ref_audio=recordings[0], x_vector_only_mode=True, **options
        )
    prompts = model.create_voice_clone_prompt(recordings, ref_text=["the door is open", "hello"])
    with traced(model) as batch:
        model.generate_voice_clone(
            ["hi", LONG_TEXT, "naïve"],
            ["English", "Auto", "German"],
            voice_clone_prompt=[prompts[0], prompts[1], prompts[0]],
            **options,
        )
    return {"alone": spoken(alone)} | {f"batch{item}": spoken(batch, item) for item in range(3)}


def custom_cases(model: Any) -> dict[str, dict[str, np.ndarray]]:
    """A preset voice in both text modes."""
    result = {}
    for name, whole_text in (("streaming", False), ("whole", True)):
        with traced(model) as trace:
            model.generate_custom_voice(
                "speak slowly", "dylan", "Auto", non_streaming_mode=whole_text, max_new_tokens=SAMPLES, **GREEDY
            )
        result[name] = spoken(trace)
    return result


@torch.inference_mode()
def codec_case(model: Any) -> dict[str, np.ndarray]:
    """The codec both ways, and the speaker encoder with its mel front end."""
    from qwen_tts.core.models.modeling_qwen3_tts import mel_spectrogram

    codec, given = model.model.speech_tokenizer, torch.from_numpy(codes(1, CODE_FRAMES))
    recording = sound(RECORDINGS_S[1], 1)
    mel = mel_spectrogram(torch.from_numpy(recording)[None], 1024, 128, 24_000, 256, 1024, 0, 12_000)
    encoded = [codec.encode([sound(seconds, seed)], sr=24_000) for seed, seconds in enumerate(RECORDINGS_S)]
    return {
        "whole": codec.model.decoder(given)[0, 0, ::WAVE_STRIDE].numpy(),
        "chunked": codec.model.decoder.chunked_decode(given, *CHUNKS)[0, 0, ::WAVE_STRIDE].numpy(),
        "mel": mel[0].T[::4].numpy(),
        "speaker": model.model.extract_speaker_embedding(recording, 24_000).numpy(),
    } | {f"encoded{index}": item.audio_codes[0].numpy().astype(np.int16) for index, item in enumerate(encoded)}


def api_case(root: Path, case: str) -> dict[str, np.ndarray]:
    """What the reference's public API makes of one call: codes and thinned waves of every item."""
    kind, size, method, given = API_CASES[case]
    model = load_reference(build(root / f"{kind}-{size}-ends", kind, size, eos_gain=API_EOS_GAIN))
    with traced(model) as trace:
        waves, _ = getattr(model, method)(**given, max_new_tokens=API_SAMPLES, **GREEDY)
    made = {f"codes{item}": codes.numpy().astype(np.int16) for item, codes in enumerate(trace.codes)}
    return made | {
        f"wave{item}": wave[len(wave) - 1920 * len(trace.codes[item]) :: API_WAVE_STRIDE]
        for item, wave in enumerate(waves)
    }


def save(name: str, directory: Path, cases: dict[str, dict[str, np.ndarray]]) -> None:
    """One file per checkpoint, with the hashes of the weights that it was made from."""
    hashes = np.array(
        [weights_hash(directory / file) for file in ("model.safetensors", "speech_tokenizer/model.safetensors")]
    )
    write(name, cases, hashes=hashes)


def write(name: str, cases: dict[str, dict[str, np.ndarray]], **more: np.ndarray) -> None:
    arrays = {f"{case}.{key}": value for case, values in cases.items() for key, value in values.items()}
    np.savez_compressed(DIRECTORY / f"{name}.npz", **more, **arrays)
    size = (DIRECTORY / f"{name}.npz").stat().st_size
    print(f"{name}: {len(arrays)} arrays, {size / 1000:.0f} kB")


def main() -> None:
    torch.set_num_threads(1)
    DIRECTORY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        for kind, size in (("base", "1b7"), ("base", "0b6"), ("custom_voice", "1b7")):
            directory = build(Path(root) / f"{kind}-{size}", kind, size)
            model = load_reference(directory)
            cases = base_cases(model) if kind == "base" else custom_cases(model)
            if (kind, size) == ("base", "1b7"):
                cases["codec"] = codec_case(model)
            save(f"{kind}-{size}", directory, cases)
        write("api", {case: api_case(Path(root), case) for case in API_CASES})


if __name__ == "__main__":
    main()
