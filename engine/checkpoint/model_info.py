"""Facts about a checkpoint before it is loaded or even downloaded: its kind, its speakers, its languages.

Home Assistant asks for the voices long before a model is loaded, and drops a server with an empty list.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ipc.messages import Voice
from ..model.config import MODEL_FILE, MODEL_TYPES, CheckpointError, ConfigError
from ..prompt.languages import follows_instruct, tag_of
from .hub import cached_file

LANGUAGES = ("zh", "en", "ja", "ko", "de", "fr", "ru", "pt", "es", "it")


@dataclass(frozen=True, slots=True)
class Preset:
    """A published CustomVoice speaker: how it sounds, and its mother tongue."""

    sound: str
    language: str


PRESETS = {
    "ryan": Preset("energetic man with a strong rhythm", "en"),
    "aiden": Preset("sunny American man, clear", "en"),
    "serena": Preset("warm and gentle young woman", "zh"),
    "vivian": Preset("bright young woman with an edge", "zh"),
    "uncle_fu": Preset("seasoned man, low and mellow", "zh"),
    "dylan": Preset("young man from Beijing, natural", "zh"),
    "eric": Preset("lively man from Chengdu, a little husky", "zh"),
    "ono_anna": Preset("playful Japanese woman, light", "ja"),
    "sohee": Preset("warm Korean woman, full of feeling", "ko"),
}
_KINDS_BY_NAME = {"-base": "base", "-voicedesign": "voice_design", "-customvoice": "custom_voice"}


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`languages` are BCP-47 tags; `speakers` are empty unless `kind` is custom_voice."""

    kind: str
    size: str
    speakers: tuple[str, ...]
    languages: tuple[str, ...]

    @property
    def follows_instruct(self) -> bool:
        """Whether a style described in words changes anything."""
        return follows_instruct(self.kind, self.size)

    def preset_voices(self) -> tuple[Voice, ...]:
        """The checkpoint's own speakers; the known ones come first."""
        names = sorted(self.speakers, key=lambda name: (*PRESETS, name).index(name))
        return tuple(self._preset(name) for name in names)

    def with_first(self, *first: str) -> tuple[str, ...]:
        """All languages, these before the others."""
        spoken = {tag.split("-")[0].lower() for tag in first}
        return (*first, *(tag for tag in self.languages if tag not in spoken))

    def _preset(self, name: str) -> Voice:
        preset = PRESETS.get(name)
        shown = name.replace("_", " ").title()
        first = [preset.language] if preset and preset.language in self.languages else []
        description = f"{shown}: {preset.sound}" if preset else shown
        return Voice(name, description, self.with_first(*first), follows_instruct=self.follows_instruct)


def read_card(directory: Path) -> ModelInfo:
    """Return the facts of config.json in `directory`. Raises CheckpointError."""
    file = directory / MODEL_FILE
    try:
        return _card(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: is not the config of a Qwen3-TTS 12 Hz checkpoint ({error!r})") from error


def foresee_card(name: str, revision: str | None, cache: Path | None) -> ModelInfo:
    """The card of checkpoint `name`, a directory or a hub id that may not have been downloaded yet; never fails.

    Errors are reported by loading; until then the list is a guess of the likely voices.
    """
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return read_card(path)
        if not _is_published(name) and (found := cached_file(name, MODEL_FILE, revision, cache)):
            return read_card(found.parent)
    except CheckpointError:
        pass
    return _card_by_name(name)


def _card(config: dict[str, Any]) -> ModelInfo:
    kind, talker = config["tts_model_type"], config["talker_config"]
    if kind not in MODEL_TYPES:
        raise ValueError(f"tts_model_type {kind!r}; this engine knows {', '.join(MODEL_TYPES)}")
    tags = [tag_of(language.lower()) for language in talker["codec_language_id"]]
    speakers = tuple(name.lower() for name in talker.get("spk_id") or {}) if kind == "custom_voice" else ()
    return ModelInfo(kind, str(config["tts_model_size"]), speakers, tuple(tag for tag in tags if tag))


def _is_published(name: str) -> bool:
    return name.startswith("Qwen/Qwen3-TTS-12Hz-")


def _card_by_name(name: str) -> ModelInfo:
    word = name.lower()
    kind = next((kind for part, kind in _KINDS_BY_NAME.items() if part in word), "custom_voice")
    size = "0b6" if "0.6b" in word else "1b7"
    return ModelInfo(kind, size, tuple(PRESETS) if kind == "custom_voice" else (), LANGUAGES)
