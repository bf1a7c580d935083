"""Default voice, language, style and volume of announcements: set in Home Assistant, kept across restarts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import SpeechError
from ..voices.catalog import VoiceCatalog
from ..voices.request import SynthesisRequest
from .messages import CommandError, Say

NONE = {"voice": "default", "language": "auto", "style": "default"}
"""The words for no choice; Home Assistant keeps the word `none` for itself."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preferences:
    """None: the value of the configuration. The volume is 0 to 100."""

    voice: str | None = None
    language: str | None = None
    style: str | None = None
    volume: int = 100

    def words(self) -> dict[str, str | int]:
        """Return the values as they are published."""
        return {name: NONE.get(name, "") if value is None else value for name, value in asdict(self).items()}


def options(catalog: VoiceCatalog) -> dict[str, list[str]]:
    """Return the valid values of each preference that is a choice."""
    entries = catalog.entries
    return {
        "voice": [NONE["voice"], *(entry.id for entry in entries)],
        "language": [NONE["language"], *sorted({tag for entry in entries for tag in entry.languages})],
        "style": [NONE["style"], *sorted({style for entry in entries for style in entry.styles})],
    }


def changed(preferences: Preferences, name: str, value: str, catalog: VoiceCatalog) -> Preferences:
    """Return the preferences with one new value. Raises CommandError."""
    if name == "volume":
        return replace(preferences, volume=_volume(value))
    known = options(catalog)[name]
    if value not in known:
        raise CommandError(f"{name}: {value!r:.80} is not one of {', '.join(known[:12])}{', …' * (len(known) > 12)}")
    choice: dict[str, Any] = {name: None if value == NONE[name] else value}
    return replace(preferences, **choice)


def _volume(value: str) -> int:
    try:
        volume = round(float(value))
    except (ValueError, OverflowError):
        raise CommandError(f"volume: {value!r:.40} is not a number") from None
    if not 0 <= volume <= 100:
        raise CommandError(f"volume: {value:.40} must be between 0 and 100")
    return volume


def request_for(say: Say, preferences: Preferences, catalog: VoiceCatalog) -> SynthesisRequest:
    """Return how to speak a text. An unsuitable preference is dropped; an unsuitable request raises SpeechError.

    A voice that is named brings its own style, if any.
    """
    voice, language = say.voice or preferences.voice, say.language or preferences.language
    style = say.style or (None if say.voice else preferences.style)
    for wish in itertools.product((voice, say.voice), (style, say.style), (language, say.language)):
        with contextlib.suppress(SpeechError):
            return _instructed(catalog, catalog.resolve(wish[0], wish[2], wish[1]), say)
    return _instructed(catalog, catalog.resolve(say.voice, say.language, say.style), say)


def _instructed(catalog: VoiceCatalog, request: SynthesisRequest, say: Say) -> SynthesisRequest:
    return catalog.instructed(request, say.instruct) if say.instruct else request


class PreferencesFile:
    """The file of the preferences. If it cannot be read or written, one line is logged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._complained = False

    def load(self) -> Preferences:
        """Return the saved preferences."""
        try:
            return _from_json(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Preferences()
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be used, so every preference is at its default: %s", self._path, error)
            return Preferences()

    def save(self, preferences: Preferences) -> None:
        """Write the file atomically."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False, encoding="utf-8") as file:
                try:
                    json.dump(asdict(preferences), file)
                    file.close()
                    os.replace(file.name, self._path)  # noqa: PTH105 - both are names already
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
        except OSError as error:
            level = logging.DEBUG if self._complained else logging.WARNING
            log.log(level, "%s cannot be written, so preferences are lost at the end: %s", self._path, error)
            self._complained = True


class PreferenceStore:
    """The preferences in force; every change is written to the file and passed to `on_change`."""

    def __init__(self, file: PreferencesFile) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._file = file
        self._current = file.load()
        self._unsaved = asyncio.Event()

    @property
    def current(self) -> Preferences:
        return self._current

    def set(self, preferences: Preferences) -> None:
        """Apply `preferences` now and after a restart. The same preferences again change nothing."""
        if preferences != self._current:
            self._current = preferences
            self._unsaved.set()
            self.on_change()

    async def save_changes(self) -> None:
        """Save every change until cancelled, in a thread because a disk may block."""
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            await asyncio.to_thread(self._file.save, self._current)


def _from_json(found: object) -> Preferences:
    """Parse the file's content. Raises ValueError."""
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    known = {field.name: found[field.name] for field in fields(Preferences) if field.name in found}
    for name, value in known.items():
        fits = _is_volume(value) if name == "volume" else value is None or isinstance(value, str)
        if not fits:
            raise ValueError(f"{name} cannot be {value!r:.40}")
    return Preferences(**known)


def _is_volume(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100
