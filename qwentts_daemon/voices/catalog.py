"""Voices as clients name them, and the engine's request for each name.

Home Assistant sends neither a language nor an instruction, only the id of a voice and a free word `speaker`.
So both are part of the id: `ryan@de-DE` pins a language, `ryan+whisper` a style, and `speaker` names a style too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..config.schema import Voices
from ..errors import Code, ConfigError, SpeechError
from ..suggestions import did_you_mean, fold_name
from .languages import distance, match_language
from .request import SynthesisRequest


class EngineVoice(Protocol):
    """A voice as the engine reports it (`engine.ipc.messages.Voice`)."""

    @property
    def id(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def styles(self) -> tuple[str, ...]: ...
    @property
    def follows_instruct(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class VoiceEntry:
    """One entry of the list of voices for clients."""

    id: str
    description: str
    languages: tuple[str, ...]
    styles: tuple[str, ...]


class VoiceCatalog:
    """Lists and resolves voice names. Immutable; when voices change, a new one is created.

    `awaited` lists the configured names that do not belong to a voice yet.
    """

    def __init__(
        self, voices: Sequence[EngineVoice], config: Voices, more_may_come: bool = False, stands_in: bool = False
    ) -> None:
        """Raise ConfigError for a configured name without a voice, unless the voice may still appear.

        `stands_in`: these voices speak for those that this machine cannot have at present, whatever their names.
        """
        if not voices:
            raise ConfigError("the engine lists no voices; a Base model needs a cloned one: `qwentts-daemon clone`")
        self._voices = {voice.id: voice for voice in voices}
        self._config = config
        self._more_may_come = more_may_come or stands_in
        self._stands_in = stands_in
        self.awaited: list[str] = []
        self._check_languages()
        self.default = self._default(voices)
        self.entries = self._entries()

    def _check_languages(self) -> None:
        configured = {
            "voices.language": [self._config.language or ""],
            "voices.pin_languages": self._config.pin_languages,
        }
        for key, tags in configured.items():
            for tag in filter(None, tags):
                if all(voice.languages and not match_language(tag, voice.languages) for voice in self._voices.values()):
                    raise ConfigError(f"{key}: no voice speaks {tag}")

    def _default(self, voices: Sequence[EngineVoice]) -> str:
        wanted = self._config.default
        if wanted is not None and self._configured("voices.default", wanted):
            return wanted
        return best_voice(voices, self._config.language or "en").id

    def _configured(self, key: str, name: str) -> SynthesisRequest | None:
        """Resolve a configured name; return None if its voice may still appear. Raises ConfigError."""
        try:
            return self._resolved(name)
        except SpeechError as error:
            if not (self._more_may_come and error.code == Code.VOICE_NOT_FOUND):
                raise ConfigError(f"{key}: {error}") from None
            self.awaited.append(f"{key}: {error}")
            return None

    def _entries(self) -> list[VoiceEntry]:
        """Return the default voice first, then the others with pinned languages and styles, then the aliases.

        An alias with the name of a voice replaces it.
        """
        plain = [entry for voice in self._voices.values() for entry in self._entries_of(voice)]
        aliases = [entry for item in self._config.aliases.items() for entry in self._alias_entries(*item)]
        named = {entry.id: entry for entry in plain + aliases}
        return sorted(named.values(), key=lambda entry: entry.id != self.default)

    def resolve(
        self, name: str | None = None, language: str | None = None, speaker: str | None = None
    ) -> SynthesisRequest:
        """Return the engine's request. Without a name the language selects the voice. Raises SpeechError."""
        try:
            return self._resolved(name, language, speaker)
        except SpeechError as error:
            if not (self._stands_in and error.code == Code.VOICE_NOT_FOUND):
                raise
            return self._instead(name, language)

    def _resolved(self, name: str | None, language: str | None = None, speaker: str | None = None) -> SynthesisRequest:
        asked = name
        if name is None and language is not None:
            name = self._for_language(language)
        name = self._meant(name or self.default)
        base, style, pinned = _split(name)
        voice = self._voice(base)
        if voice is None:
            names = [*self._voices, *self._config.aliases]
            raise SpeechError(Code.VOICE_NOT_FOUND, f"no voice {name!r:.80}{did_you_mean(base, names)}")
        style = speaker or style
        wanted = pinned or language if asked else language or pinned  # a pin in the default voice's name is a default
        tag = self._language(voice, wanted or self._config.language)
        if style is None:
            return SynthesisRequest(voice.id, tag)
        known = self._styles(voice)
        found = _find(style, known)
        if found is None:
            raise SpeechError(
                Code.VOICE_NOT_FOUND, f"voice {base} does not have the style {style!r:.80}{did_you_mean(style, known)}"
            )
        style = found
        return SynthesisRequest(
            voice.id, tag, style, self._config.styles.get(style) if voice.follows_instruct else None
        )

    def _instead(self, name: str | None, language: str | None) -> SynthesisRequest:
        """Resolve a name or style of a voice that is not available at present."""
        base, _, pinned = _split(self._meant(name or self.default))
        wanted = pinned or language or self._config.language or "en"
        return SynthesisRequest((self._voice(base) or best_voice(list(self._voices.values()), wanted)).id)

    def _meant(self, name: str) -> str:
        """Return the target of an alias, and any other name unchanged. A voice's exact name precedes an alias in
        another spelling."""
        if name in self._voices and name not in self._config.aliases:
            return name
        alias = _find(name, self._config.aliases)
        return name if alias is None else self._config.aliases[alias]

    def _voice(self, name: str) -> EngineVoice | None:
        known = _find(name, self._voices)
        return None if known is None else self._voices[known]

    def instructed(self, request: SynthesisRequest, words: str) -> SynthesisRequest:
        """Add an instruction how to speak. Raises SpeechError if the voice does not follow instructions."""
        if not self._voices[request.voice].follows_instruct:
            if self._stands_in:
                return request
            raise SpeechError(Code.INVALID_REQUEST, f"instruct: the voice {request.voice} does not follow instructions")
        return replace(request, instruct=" ".join(filter(None, (request.instruct, words))))

    def _for_language(self, language: str) -> str:
        default = self._voices[self.resolve().voice]
        if match_language(language, default.languages):
            return self.default
        return best_voice(list(self._voices.values()), language, strict=True).id

    def _language(self, voice: EngineVoice, wanted: str | None) -> str | None:
        """Return the voice's own tag for a wanted language; None leaves the choice to the engine."""
        if wanted is None or not voice.languages:
            return wanted
        found = match_language(wanted, voice.languages)
        if found is None and wanted != self._config.language:
            raise SpeechError(
                Code.LANGUAGE_NOT_SUPPORTED,
                f"voice {voice.id} does not speak {wanted!r:.40}; it speaks {', '.join(voice.languages)}",
            )
        return found

    def _styles(self, voice: EngineVoice) -> tuple[str, ...]:
        described = tuple(self._config.styles) if voice.follows_instruct else ()
        return tuple(dict.fromkeys((*voice.styles, *described)))

    def _entries_of(self, voice: EngineVoice) -> Iterable[VoiceEntry]:
        styles = self._styles(voice)
        yield VoiceEntry(voice.id, voice.description, voice.languages, styles)
        if len(voice.languages) > 1:
            for language in self._config.pin_languages:
                if tag := match_language(language, voice.languages):
                    yield VoiceEntry(f"{voice.id}@{language}", f"{voice.description} ({language})", (tag,), styles)
        if voice.follows_instruct:
            for style in self._config.styles:
                yield VoiceEntry(f"{voice.id}+{style}", f"{voice.description}, {style}", voice.languages, ())

    def _alias_entries(self, alias: str, name: str) -> Iterable[VoiceEntry]:
        if request := self._configured(f"voices.aliases.{alias}", name):
            voice = self._voices[request.voice]
            languages = (request.language,) if request.language else voice.languages
            yield VoiceEntry(alias, alias.capitalize(), languages, self._styles(voice))


def best_voice(voices: Sequence[EngineVoice], language: str, strict: bool = False) -> EngineVoice:
    """Return the voice that speaks a language best: in that region, as its own language, or at all.

    With `strict`, raises SpeechError for a language that no voice speaks.
    """
    fitting = [(fit, voice) for voice in voices if (fit := _fit(voice, language)) is not None]
    if fitting:
        return min(fitting, key=lambda item: item[0])[1]
    if strict:
        raise SpeechError(Code.LANGUAGE_NOT_SUPPORTED, f"no voice speaks {language!r:.40}")
    return voices[0]


def _fit(voice: EngineVoice, language: str) -> tuple[int, bool] | None:
    """Return how far a voice is from a language, and whether it is foreign to the voice: less is better."""
    if not voice.languages:
        return 3, True
    apart = distance(language, voice.languages)
    return None if apart is None else (apart, distance(language, voice.languages[:1]) != apart)


def _find(name: str, known: Collection[str]) -> str | None:
    """Return the known spelling of a name, or None; an exact match precedes those of `fold_name`."""
    if name in known:
        return name
    folded = fold_name(name)
    return next((each for each in known if fold_name(each) == folded), None)


def _split(name: str) -> tuple[str, str | None, str | None]:
    """Split `voice+style@language`; style and language may be in any order."""
    voice, *additions = re.split(r"(?=[@+])", name)
    given = {addition[0]: addition[1:] for addition in additions}
    return voice, given.get("+") or None, given.get("@") or None
