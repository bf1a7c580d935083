"""What every example lets one choose: a model, and a voice of the kind that it has."""

from __future__ import annotations

import argparse
from typing import Any

from .. import Qwen3TTSModel

MODEL = "Qwen/Qwen3-TTS-12Hz-1.7B-Base"


def example_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all examples share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=MODEL, help="a hub id or a directory")
    parser.add_argument("--device", help="cuda:N or cpu; the GPU if there is one")
    parser.add_argument("--language", default="en")
    parser.add_argument("--ref-audio", help="a Base model: the recording whose voice shall speak")
    parser.add_argument("--ref-text", help="its words; without them the voice is cloned from its timbre alone")
    parser.add_argument("--speaker", default="ryan", help="a CustomVoice model: who speaks")
    parser.add_argument("--instruct", default="A calm, warm voice.", help="a VoiceDesign model: the voice in words")
    parser.add_argument("--max-frames", type=int, default=1000, help="80 ms each; speech usually ends by itself")
    parser.add_argument("--seed", type=int, help="repeats a speech; without it each is drawn anew")
    return parser


def opened(options: argparse.Namespace) -> Qwen3TTSModel:
    """The model, made as fast as its device allows."""
    model = Qwen3TTSModel.from_pretrained(options.model, device_map=options.device)
    return model.enable_streaming_optimizations(decode_window_frames=80)


def wishes(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords of every stream function that the shared options fill."""
    return {"language": options.language, "max_frames": options.max_frames, "seed": options.seed}


def voice(model: Qwen3TTSModel, options: argparse.Namespace) -> dict[str, Any]:
    """The keywords that choose the voice in each stream function of this kind of model."""
    if model.kind == "custom_voice":
        return {"speaker": options.speaker}
    if model.kind == "voice_design":
        return {"instruct": options.instruct}
    if not options.ref_audio:
        raise SystemExit("a Base model speaks with the voice of a recording: --ref-audio FILE [--ref-text WORDS]")
    prompt = model.create_voice_clone_prompt(options.ref_audio, options.ref_text, not options.ref_text)
    return {"voice_clone_prompt": prompt}
