"""A checkpoint ready to speak: its networks, its words and its rules, for the Python API and the worker alike."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.speech_model import SpeechModel
from ..prompt.languages import PromptError
from ..prompt.planner import PromptIds, PromptPlanner
from ..prompt.tokenizer import TextTokenizer, TokenizerError
from .load import CheckpointError, LoadOptions, load


@dataclass(frozen=True, slots=True)
class LoadedCheckpoint:
    """The result of `load_checkpoint`. `generation` holds the checkpoint's own sampling defaults."""

    directory: Path
    model: SpeechModel
    tokenizer: TextTokenizer
    planner: PromptPlanner
    generation: dict[str, Any]

    @property
    def kind(self) -> str:
        """base, custom_voice or voice_design."""
        return self.planner.ids.kind


def read_planner(directory: Path, tokenizer: TextTokenizer) -> PromptPlanner:
    """The prompt rules of a checkpoint directory. Raises CheckpointError."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return PromptPlanner(PromptIds.from_config(config), tokenizer.encode)
    except (OSError, ValueError, PromptError) as error:
        raise CheckpointError(f"{directory / 'config.json'}: {error}") from error


def load_checkpoint(directory: Path, options: LoadOptions) -> LoadedCheckpoint:
    """Everything of the checkpoint in `directory`. Raises CheckpointError."""
    try:
        tokenizer = TextTokenizer.from_directory(directory)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error
    planner = read_planner(directory, tokenizer)
    generation = directory / "generation_config.json"
    try:
        defaults = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{generation}: {error}") from error
    if not isinstance(defaults, dict | None):
        raise CheckpointError(f"{generation}: the file must be a JSON object")
    return LoadedCheckpoint(directory, load(directory, options), tokenizer, planner, defaults or {})
