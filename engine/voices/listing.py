"""The voices that a checkpoint offers: its own speakers, or those of the voices folder that fit it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.model_info import ModelInfo
from ..ipc.messages import Voice
from .folder import MODEL_KINDS, FolderVoice, read_folder

NARRATOR = FolderVoice(
    name="narrator",
    kind="design",
    description="Narrator: calm and clear",
    instruct="The warm, calm and clear voice of a grown woman who reads aloud at an even pace and articulates well.",
)
"""The voice that a VoiceDesign model always offers, after those of the folder."""


@dataclass(frozen=True, slots=True)
class VoiceListing:
    """`voices`: for clients; `folder`: those of the voices folder; `problems`: faults of unusable ones, by name."""

    voices: tuple[Voice, ...]
    folder: dict[str, FolderVoice]
    problems: dict[str, str]

    def without(self, problems: dict[str, str]) -> VoiceListing:
        """Return the listing without the voices that turned out to be unusable."""
        return VoiceListing(
            voices=tuple(voice for voice in self.voices if voice.id not in problems),
            folder={name: voice for name, voice in self.folder.items() if name not in problems},
            problems=self.problems | problems,
        )


def list_voices(model: ModelInfo, folder: Path) -> VoiceListing:
    """Return the voices of a checkpoint. Reads small files only."""
    found, problems = read_folder(folder)
    fitting = {}
    for name, voice in found.items():
        if obstacle := _obstacle(model, voice):
            problems[name] = obstacle
        else:
            fitting[name] = voice
    if model.kind == "voice_design":
        fitting.setdefault(NARRATOR.name, NARRATOR)
    listed = tuple(_listed(model, voice) for voice in fitting.values())
    return VoiceListing(model.preset_voices() + listed, fitting, problems)


def _obstacle(model: ModelInfo, voice: FolderVoice) -> str | None:
    needed = MODEL_KINDS[voice.kind]
    if model.kind != needed:
        return f"its kind {voice.kind!r} needs a {needed} model, and this one is {model.kind}"
    for tag in voice.languages:
        if tag.replace("_", "-").split("-")[0].lower() not in model.languages:
            return f"the model does not speak {tag!r}; it speaks {', '.join(model.languages)}"
    return None


def _listed(model: ModelInfo, voice: FolderVoice) -> Voice:
    return Voice(
        id=voice.name,
        description=voice.description,
        languages=model.with_first(*voice.languages),
        styles=tuple(voice.styles),
        follows_instruct=model.follows_instruct,
    )
