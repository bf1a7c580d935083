"""Which language or speaker a caller means: the checkpoint's own names in any case, or a BCP-47 tag."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

_NAMES_BY_TAG = {
    "cmn": "chinese",
    "de": "german",
    "en": "english",
    "es": "spanish",
    "fr": "french",
    "it": "italian",
    "ja": "japanese",
    "ko": "korean",
    "pt": "portuguese",
    "ru": "russian",
    "zh": "chinese",
}


class PromptError(ValueError):
    """A request that cannot become a prompt; the message is meant for the person who made it."""


def tag_of(language: str) -> str | None:
    """The short BCP-47 tag of one of the checkpoint's languages, for lists shown to others."""
    tags = [tag for tag, name in _NAMES_BY_TAG.items() if name == language]
    return min(tags, key=len) if tags else None


def resolve_language(wanted: str | None, known: Mapping[str, int]) -> str | None:
    """The checkpoint's name of a language, or None for "let the model decide". Raises PromptError.

    A tag's region and script are ignored (`en-US`, `zh_CN`). Dialects are not languages: a speaker brings its own.
    """
    require_words("language", wanted)
    if wanted is None or wanted.strip().lower() in ("", "auto"):
        return None
    name = wanted.strip().lower()
    spoken = [key for key in known if "dialect" not in key]
    if name not in spoken:
        name = _NAMES_BY_TAG.get(name.replace("_", "-").split("-")[0], name)
    if name in spoken:
        return name
    if name in known:
        raise PromptError(f"{name} is not a language of its own: choose a speaker who speaks it")
    raise PromptError(f"unknown language {wanted!r}{suggest(name, [*spoken, 'auto'])}")


def resolve_speaker(wanted: str | None, known: Collection[str]) -> str:
    """The checkpoint's spelling of a speaker's name. Blanks and hyphens match `_`. Raises PromptError."""
    require_words("speaker", wanted)
    name = (wanted or "").strip().lower()
    for candidate in (name, name.replace(" ", "_").replace("-", "_")):
        if candidate in known:
            return candidate
    raise PromptError(f"unknown speaker {wanted!r}{suggest(name, known)}")


def require_words(name: str, given: object) -> None:
    """Raises PromptError for what is neither a str nor None, such as a list where one text is spoken."""
    if not isinstance(given, str | None):
        raise PromptError(f"{name} must be a str, not {given!r}")


def suggest(name: str, known: Collection[str]) -> str:
    """The tail of an error message: the nearest valid name, if any is near, and all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else "."
    return f"{hint} Valid: {', '.join(sorted(known))}"


def follows_instruct(kind: str, size: str) -> bool:
    """Return whether a manner of speaking described in words changes anything.

    The preset voices of the 0.6B checkpoint were not trained for it, and cloned voices never were.
    """
    return kind == "voice_design" or (kind == "custom_voice" and size != "0b6")
