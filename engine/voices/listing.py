"""Who can speak with a checkpoint: its own speakers, or the voices of the folder that it fits."""

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
"""What a VoiceDesign model always has, after the voices that somebody described."""


@dataclass(frozen=True, slots=True)
class VoiceListing:
    """`voices` are listed to clients; `folder` holds those of the folder, `problems` what is wrong with the others."""

    voices: tuple[Voice, ...]
    folder: dict[str, FolderVoice]
    problems: dict[str, str]

    def without(self, problems: dict[str, str]) -> VoiceListing:
        """The same, less the voices that turned out to be unusable."""
        return VoiceListing(
            voices=tuple(voice for voice in self.voices if voice.id not in problems),
            folder={name: voice for name, voice in self.folder.items() if name not in problems},
            problems=self.problems | problems,
        )


def read_roster(card: ModelInfo, folder: Path) -> VoiceListing:
    """Everybody who can speak with the checkpoint of this card. Reads small files only."""
    found, problems = read_folder(folder)
    fitting = {}
    for name, voice in found.items():
        if obstacle := _obstacle(card, voice):
            problems[name] = obstacle
        else:
            fitting[name] = voice
    if card.kind == "voice_design":
        fitting.setdefault(NARRATOR.name, NARRATOR)
    listed = tuple(_listed(card, voice) for voice in fitting.values())
    return VoiceListing(card.preset_voices() + listed, fitting, problems)


def _obstacle(card: ModelInfo, voice: FolderVoice) -> str | None:
    needed = MODEL_KINDS[voice.kind]
    if card.kind != needed:
        return f"its kind {voice.kind!r} needs a {needed} model, and this one is {card.kind}"
    for tag in voice.languages:
        if tag.replace("_", "-").split("-")[0].lower() not in card.languages:
            return f"the model does not speak {tag!r}; it speaks {', '.join(card.languages)}"
    return None


def _listed(card: ModelInfo, voice: FolderVoice) -> Voice:
    return Voice(
        id=voice.name,
        description=voice.description,
        languages=card.with_first(*voice.languages),
        styles=tuple(voice.styles),
        follows_instruct=card.follows_instruct,
    )
