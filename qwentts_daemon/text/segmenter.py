"""Splits a text that is still being written into segments to speak, each returned as soon as its end is certain.

Four filters in a row: characters, machine text, markup, sentences. Each decides by the characters up to the present one
alone, so the fragments in which a text arrives never change its segments. Where structure ends a segment, such as a
list item, a row or a paragraph, the segment gets a full stop: engines know no other sign for a pause.
"""

import re
import unicodedata

from .characters import BREAK, LEFT_OUT, UNSPACED, CharacterFilter, CleaningOptions, tidy, with_stop
from .machine_text import MachineTextFilter
from .markdown import MarkdownStripper
from .replacements import Replacer

__all__ = ["CleaningOptions", "Segmenter", "clean"]

_UNSPACED = re.compile(f"[{UNSPACED}]")

# --- where a sentence ends -------------------------------------------------------------------------------------------

_AT_ONCE = "。｡।॥"  # only a closer may still follow
_WIDE = f"{_AT_ONCE}！？؟۔።၊။។"  # no blank needs to follow
_LATIN = ".!?…‼⁇⁈⁉‽"
_MARK_SET = frozenset(_LATIN)
_LOUD = frozenset("!?‼⁇⁈⁉‽")
_CLOSERS = r"」』）】〕〉》］｣”’\"')\]}"
_ENDING = re.compile(
    rf"(?:(?P<wide>[{_LATIN}]*[{_WIDE}][{_LATIN}{_WIDE}]*)[{_CLOSERS}]*"
    rf"|(?P<mark>[{_LATIN}]+)[{_CLOSERS}»›«‹“‘]*(?: [»›](?= ))?)"  # German “ and « close, too, French » behind a blank
    rf"(?P<gap>[ {LEFT_OUT}]*)(?P<skipped>[\W_]{{0,8}})(?P<next>[^\W_])?"
)
_PAIRS = (("「", "」"), ("『", "』"), ("（", "）"), ("《", "》"), ("【", "】"), ("“", "”"), ("(", ")"))
_DOTTED = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")  # U.S, e.g, z.B, Ph.D
# Before the next word, whatever it is. Without "etc", "usw" and "др": a capital behind them does begin a sentence.
_ABBREVIATION = re.compile(
    r"""mr|mrs|ms|mx|dr|prof|rev|hon|gen|col|sgt|capt|lt|cmdr|gov|sen|rep|pres|st|mt|vs|dept|approx
    |hr|fr|dipl|ing|bzw|ca|evtl|ggf|inkl|exkl|zzgl|vgl|sog|bspw|geb|co|allg|mio|mrd|tsd|(?-i:max|min)
    |mme|mlle|av|bd|cf|sr|sra|srta|dra|ud|uds|ee|uu|exmo|exma|profa|dott|sig|avv|arch|geom|spett|egr|gent
    |им|проф|акад|тов|св|ул|просп|пр|пл|оз|пос|обл|корп|кв|тел|соч""",
    re.VERBOSE | re.IGNORECASE,
)
_BEFORE_NUMBER = re.compile(
    r"""no|nr|nos|núm|num|nro|nº|vol|fig|p|pp|pg|pág|pag|par|art|abs|abb|kap|chap|ch|sec|s|\w*str|tel|ext|ver|v|bl|ziff
    |min|max|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|стр|рис|гл|ст|табл|дом|д""",
    re.VERBOSE | re.IGNORECASE,
)
# A German article or preposition, another number of a date, or what introduces a list.
_BEFORE_COUNT = re.compile(
    r"am|der|die|das|dem|den|des|vom|zum|zur|beim|im|bis|seit|ab|und|jeden|jeder|\d+\.|.*[:;,(–—-]", re.IGNORECASE
)


def _is_end(text: str, ending: re.Match[str]) -> bool | None:
    """Whether a sentence ends behind these marks and closers; None while what follows may still decide it."""
    behind = ending.start("gap")
    if behind == len(text):
        single = ending[0] in set(_AT_ONCE)
        return True if single and not _is_inside(text[:behind]) else None
    if ending["wide"]:
        return True
    if not ending["gap"]:
        return _ends_unspaced(ending["mark"], text[: ending.start()][-1:], text[behind])
    if not ending["next"] and len(ending["skipped"]) < 8:
        return None
    return _ends_spaced(text[: ending.start()], ending["mark"], ending["next"] or "", ending.end("mark") < behind)


def _is_inside(text: str) -> bool:
    """Whether a quote or bracket is open, whose closer belongs to the sentence."""
    return text.count('"') % 2 == 1 or any(text.count(opener) > text.count(closer) for opener, closer in _PAIRS)


def _ends_unspaced(mark: str, before: str, following: str) -> bool:
    spaceless = [bool(_UNSPACED.match(char)) for char in (before, following)]
    return any(spaceless) if _LOUD.intersection(mark) else mark == "." and all(spaceless)


def _ends_spaced(before: str, mark: str, following: str, quoted: bool) -> bool:
    if _LOUD.intersection(mark):
        return not (quoted and following.islower())  # `"Why?" she said.`
    return not following.islower() and (mark != "." or not _is_abbreviated(before, following))


def _is_abbreviated(before: str, following: str) -> bool:
    """Whether the period belongs to the word before it.

    In doubt it does: two sentences spoken as one sound well, half a sentence does not.
    """
    word = re.split(r"[^\w.]", before[-40:])[-1]
    if word.isdigit():
        return _is_counting(before[: -len(word)], word, following)
    initial = len(word) == 1 and word.lower() != word.upper()
    number = following.isdigit() and _BEFORE_NUMBER.fullmatch(word)
    return initial or bool(number or _ABBREVIATION.fullmatch(word) or _DOTTED.fullmatch(word))


def _is_counting(lead: str, number: str, following: str) -> bool:
    """Whether `number.` counts, as in `1. Milk`, `am 3. Oktober` or `2024. 5. 3.`, rather than ends a sentence."""
    if not lead or following.isdigit():
        return True
    if lead[-1] not in " (" or len(number) > 2:
        return False
    word = lead.rstrip(" ").rsplit(" ", 1)[-1]
    return bool(_BEFORE_COUNT.fullmatch(word))


# --- where a text without an end is cut ------------------------------------------------------------------------------

_CLAUSE = re.compile(r"[,;:.!?…–—)،؛](?= )|[、，；：。！？]")
_BLANK = re.compile(r"(?= )")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}")


def _cut(text: str, limit: int) -> int:
    """Return the last sensible place with at least one and at most `limit` characters before it."""
    for place in (_CLAUSE, _BLANK, _UNSPACED):
        ends = [match.end() for match in place.finditer(text, limit // 2, limit + 1)]
        ends = [end for end in ends if 0 < end <= limit and not _is_cluster(text, end)]
        if ends:
            return ends[-1]
    blank = text.rfind(" ", 1, limit)
    whole = (end for end in range(limit, 0, -1) if not _is_cluster(text, end))
    return blank if blank > 0 else next(whole, limit)


def _is_cluster(text: str, at: int) -> bool:
    """Whether the characters on both sides of `at` are seen as one: a short form of UAX 29."""
    before, after = text[at - 1], text[at]
    return (
        unicodedata.category(after).startswith("M")
        or unicodedata.combining(before) == 9  # a virama joins two consonants
        or after in "\u0e33\u0eb3"
        or "\u1160" <= after <= "\u11ff"
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or bool(_FLAG.match(before + after))
    )


# --- segments --------------------------------------------------------------------------------------------------------

# A shortcut for what is only added to a sentence.
_WORD = f"[^{_LATIN}{_WIDE}{BREAK}{LEFT_OUT} ]+"
_WORDS = re.compile(f"{_WORD}(?: {_WORD})*")
_MARKS = re.compile(f"[{_LATIN}]+")


class _Sentences:
    """Finds the sentences in plain text. It keeps only the unfinished one."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._text = ""
        self._scanned = 0  # no sentence ends before it
        self._done: list[tuple[str, bool]] = []

    def feed(self, text: str) -> list[tuple[str, bool]]:
        """Return the complete sentences, and of each whether only the structure of the text ends it."""
        at = 0
        while at < len(text):
            room = self._max_chars - len(self._text)
            undecided = self._scanned < len(self._text)
            if not undecided and (words := _WORDS.match(text, at, at + room)):
                self._text += words.group()
                self._scanned, at = len(self._text), words.end()
            elif self._text[-1:] in _MARK_SET and (marks := _MARKS.match(text, at, at + room)):
                self._push(marks.group())  # a run of marks decides nothing, so look at it once
                at = marks.end()
            else:
                self._push(text[at])
                at += 1
        done, self._done = self._done, []
        return done

    def _push(self, chars: str) -> None:
        if chars == BREAK:
            self._release(len(self._text), broken=True)
        elif chars != " " or self._text[-1:] not in ("", " "):
            self._text += chars
            while end := self._find_end():
                self._release(end)

    def _find_end(self) -> int:
        while ending := _ENDING.search(self._text, self._scanned):
            end = ending.start("gap")
            is_end = _is_end(self._text, ending)
            if is_end and end <= self._max_chars:
                return end
            if is_end is not False:
                break
            self._scanned = end
        else:
            self._scanned = len(self._text)
        return _cut(self._text, self._max_chars) if len(self._text) > self._max_chars else 0

    def end(self) -> str:
        """Return the rest."""
        rest, self._text, self._scanned = self._text, "", 0
        return rest

    def _release(self, end: int, broken: bool = False) -> None:
        self._done.append((self._text[:end], broken))
        self._text = self._text[end:].lstrip(" ")
        self._scanned = 0


class Segmenter:
    """Returns the segments of a text that arrives in fragments; `max_chars` bounds a segment and the text held back."""

    def __init__(self, cleaning: CleaningOptions, max_chars: int = 400) -> None:
        self._cleaning = cleaning
        self._characters = CharacterFilter(cleaning.emoji)
        self._machine_text = MachineTextFilter() if cleaning.machine_text else None
        self._markup = MarkdownStripper(cleaning)
        self._max_chars = max_chars
        self._sentences = _Sentences(max_chars)
        self._replacer = Replacer(cleaning.replacements)

    def feed(self, text: str) -> list[str]:
        """Append text and return the segments that are complete now: cleaned and not empty."""
        return self._speak(self._markup.feed(self._for_listeners(self._characters.feed(text))))

    def end(self) -> list[str]:
        """Return the segments of the rest."""
        rest = self._for_listeners(self._characters.end()) + (self._machine_text.end() if self._machine_text else "")
        segments = self._speak(self._markup.feed(rest) + self._markup.end())
        return segments + self._spoken([self._finish(self._sentences.end(), broken=False)])

    def _for_listeners(self, text: str) -> str:
        return self._machine_text.feed(text) if self._machine_text else text

    def _speak(self, plain: str) -> list[str]:
        return self._spoken([self._finish(sentence, broken) for sentence, broken in self._sentences.feed(plain)])

    def _spoken(self, segments: list[str]) -> list[str]:
        return [segment for segment in segments if any(map(str.isalnum, segment))]

    def _finish(self, sentence: str, broken: bool) -> str:
        segment = " ".join(self._replacer.apply(tidy(sentence, self._cleaning)).split())
        return with_stop(segment) if broken and 0 < len(segment) < self._max_chars else segment


def clean(text: str, cleaning: CleaningOptions) -> str:
    """Return a whole text as it would be spoken."""
    segmenter = Segmenter(cleaning, max_chars=10_000)
    joined = ""
    for segment in segmenter.feed(text) + segmenter.end():
        joined += separator(joined[-1:]) + segment
    return joined


def separator(before: str) -> str:
    """Return what joins two segments: a blank after the character `before` if its script uses blanks."""
    return " " if before and not _UNSPACED.match(before) else ""
