"""Prepares text for eSpeak: removes its commands, cuts it into short pieces, and splits it where the script changes.

eSpeak reads clause by clause. Text is cut only where eSpeak would end a clause itself, so that the pieces sound like
the whole. Only a clause of more than about ten seconds is cut elsewhere, at a blank if possible.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

PIECE_WEIGHT = 160
"""The longest piece, in letters or characters of the same duration: ten seconds of speech, some 7 ms of work.

It also keeps a piece below the 800 bytes at which eSpeak breaks a clause by itself.
"""

# Control characters are commands to eSpeak (U+0001 changes pitch or voice); U+0530, U+0557 and the private use area
# are marks of its own; a lone surrogate cannot be encoded in UTF-8.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u0530\u0557\ud800-\udfff\ue000-\uf8ff\ufff0-\uffff]")
# Fullwidth and mathematical letters and digits, halfwidth kana: eSpeak would spell out their code points.
_DRESSED_UP = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff65-\uff9f\U0001d400-\U0001d7ff]+")

# Where eSpeak ends a clause in any context. This excludes the no-break space, which eSpeak does not treat as a blank; a
# full stop after a digit or Roman numeral, which may be an ordinal; and a sign soon after another one.
_ALONE = r"(?<![.,;:!?…])(?<![.,;:!?…][\s)\]\"'”’»])"
_CLAUSE_END = re.compile(
    rf"{_ALONE}[,;:!?…،؛؟۔।॥]+(?:[ \t\n\u3000]+|\Z)"
    r"|(?<=[^\W\d_IVXL])\.(?:[ \t\n\u3000]++(?!['’])|\Z)"
    rf"|{_ALONE}[、。，！？；：]+[ \t\n\u3000]*"
)
_CLAUSE_SIGNS = frozenset(".,;:!?…،؛؟۔।॥、。，！？；：")
_BREATH = re.compile(r"[-,;:.!?…–—/)\]]\s+")
_BLANK = re.compile(r"\s+")

# Script: the eSpeak voice that reads it, its characters, and how many make a run (one Greek letter is a symbol that
# every voice can name). Scripts that are missing here eSpeak reads in every voice, by changing its language itself.
_SCRIPTS: dict[str, tuple[str, str, int]] = {
    "Han": ("cmn", "\u3005\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", 1),
    "Kana": ("ja", "\u3041-\u30ff\u31f0-\u31ff", 1),
    "Cyrillic": ("ru", "\u0400-\u052f", 2),
    "Greek": ("el", "\u0370-\u03ff\u1f00-\u1fff", 2),
    "Arabic": ("ar", "\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc", 2),
    "Hebrew": ("he", "\u0590-\u05ff\ufb1d-\ufb4f", 2),
}
_RUN = re.compile(
    "|".join(rf"(?P<{name}>[{chars}]{{{least},}}(?:\W+[{chars}]+)*)" for name, (_, chars, least) in _SCRIPTS.items())
)


@dataclass(frozen=True, slots=True)
class TextChunk:
    """Text for one call of eSpeak with one voice: `reader`, or the job's own voice if that is empty.

    `pause`: whether the pause that eSpeak adds after it belongs there.
    """

    text: str
    reader: str = ""
    pause: bool = True


def clean(text: str) -> str:
    """Return the text without characters that eSpeak takes for commands, and with plain letters for styled ones."""
    return _DRESSED_UP.sub(lambda match: unicodedata.normalize("NFKC", match[0]), _HARMFUL.sub(" ", text))


def cut(text: str, *, ended: bool) -> tuple[list[str], str]:
    """Return the complete pieces of `text`, in order, and the incomplete rest, which is empty if `ended`.

    The end of `text` counts as the end of a word. Joined, the pieces differ from `text` by added commas only.
    """
    pieces: list[str] = []
    start = 0
    while (found := _next_piece(text, start)) is not None:
        start, piece = found
        pieces.append(piece)
    rest = text[start:]
    if not ended:
        return pieces, rest
    return ([*pieces, rest] if rest.strip() else pieces), ""


def by_script(text: str, own: str) -> list[TextChunk]:
    """Return one piece for each run of a script, with a voice that can read that script.

    `own`: the script that the job's voice reads besides Latin, or "".
    """
    spans: list[tuple[str, str]] = []
    position = 0
    for match in _RUN.finditer(text):
        script = match.lastgroup or ""
        if script != own:
            spans += [("", text[position : match.start()]), (_SCRIPTS[script][0], match[0])]
            position = match.end()
    spans = _spoken([*spans, ("", text[position:])])
    readers = [TextChunk(_closed(span), reader, pause=False) for reader, span in spans[:-1]]
    return [*readers, *(TextChunk(span, reader) for reader, span in spans[-1:])]


def _spoken(spans: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the spans with letters or digits; leading signs, such as a comma, are added to the span before."""
    joined: list[tuple[str, str]] = []
    lead = ""
    for reader, span in spans:
        start = next((index for index, char in enumerate(span) if char.isalnum()), len(span))
        if joined:
            joined[-1] = (joined[-1][0], joined[-1][1] + span[:start])
        else:
            lead += span[:start]
        if start < len(span):
            joined.append((reader, lead + span[start:]))
            lead = ""
    return joined or [("", lead)]


def _next_piece(text: str, start: int) -> tuple[int, str] | None:
    """Return the end and the text of the piece that begins at `start`; None if more text could belong to it."""
    limit = _limit(text, start)
    for match in _CLAUSE_END.finditer(text, start):
        if match.start() >= limit:
            break
        if _ends_clause(text, start, match):
            return match.end(), text[start : match.end()]
    if limit == len(text):
        return None
    stop = _forced_stop(text, start, limit)
    return stop, _closed(text[start:stop])


def _ends_clause(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether eSpeak ends its clause there: a word precedes it, and a full stop is not followed by a small letter."""
    if text[match.start()] == "." and text[match.end() : match.end() + 1].islower():
        return False
    return any(char.isalnum() for char in text[start : match.start()])


def _forced_stop(text: str, start: int, limit: int) -> int:
    """Return the last place before `limit` where a speaker would breathe, else the last blank, else `limit`."""
    for place in (_BREATH, _BLANK):
        stops = [match.end() for match in place.finditer(text, (start + limit) // 2, limit)]
        if stops:
            return stops[-1]
    return limit


def _closed(text: str) -> str:
    """Return the text, with a comma added if it would otherwise sound like the end of a sentence."""
    return text if text.rstrip()[-1:] in _CLAUSE_SIGNS else text.rstrip() + ", "


def _limit(text: str, start: int) -> int:
    """Return the first index at which a piece that begins at `start` is too long; at most the length of `text`."""
    weight = 0
    for index in range(start, len(text)):
        weight += _weight(text[index])
        if weight > PIECE_WEIGHT and index > start:
            return index
    return len(text)


def _weight(char: str) -> int:
    """Return the duration of a character in letters: eSpeak reads signs and emoji by name, others by number."""
    kind = unicodedata.category(char)[0]
    if kind in "LM":
        if char < "\u0e00" or "\u10a0" <= char <= "\u10ff" or "\u1e00" <= char <= "\u1fff":
            return 1 if char.islower() or kind == "M" else 2
        return 5 if "\u3000" <= char <= "\ud7ff" else 20
    if kind == "N":
        return 7
    return 20 if kind == "S" or char in "#%&*/@\\_" else 1
