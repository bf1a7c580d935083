"""Command-line options that all examples share: the model and the voice."""

from __future__ import annotations

import argparse
from typing import Any

from .. import Qwen3TTSModel

MODEL = "Qwen/Qwen3-TTS-12Hz-1.7B-Base"


def example_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the shared options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=MODEL, help="a hub id or a directory")
    parser.add_argument("--device", help="cuda:N or cpu; the GPU if there is one")
    parser.add_argument("--language", default="en")
    parser.add_argument("--ref-audio", help="a Base model: the recording of the voice to clone")
    parser.add_argument("--ref-text", help="its transcript; without it only the timbre is cloned")
    parser.add_argument("--speaker", default="ryan", help="a CustomVoice model: the speaker")
    parser.add_argument("--instruct", default="A calm, warm voice.", help="a VoiceDesign model: the voice in words")
    parser.add_argument("--max-frames", type=int, default=1000, help="80 ms each; speech usually ends by itself")
    parser.add_argument("--seed", type=int, help="makes a run repeatable")
    return parser


def load_model(options: argparse.Namespace) -> Qwen3TTSModel:
    """Load the model and enable its optimizations."""
    model = Qwen3TTSModel.from_pretrained(options.model, device_map=options.device)
    return model.enable_streaming_optimizations(decode_window_frames=80)


def stream_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of the streaming methods that do not depend on the model's kind."""
    return {"language": options.language, "max_frames": options.max_frames, "seed": options.seed}


def voice_keywords(model: Qwen3TTSModel, options: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of the streaming methods that select the voice. Raises SystemExit without a recording."""
    if model.kind == "custom_voice":
        return {"speaker": options.speaker}
    if model.kind == "voice_design":
        return {"instruct": options.instruct}
    if not options.ref_audio:
        raise SystemExit("a Base model speaks with the voice of a recording: --ref-audio FILE [--ref-text WORDS]")
    prompt = model.create_voice_clone_prompt(options.ref_audio, options.ref_text, not options.ref_text)
    return {"voice_clone_prompt": prompt}
