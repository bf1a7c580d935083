"""Cleans single characters, and finished segments, for speech.

`CharacterFilter` decides one character at a time, so the fragments in which a text arrives do not matter.
"""

import re
import unicodedata
from dataclasses import dataclass

from .replacements import Rule

BREAK = "\n"  # in the output of a filter: the end of a segment
LEFT_OUT = "\ufffc"  # in the output of a filter: the place of something that is not spoken
# Scripts without blanks between words: Thai, Lao, Burmese, Khmer, Han and kana, with the full-width forms.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
)


@dataclass(frozen=True, slots=True)
class CleaningOptions:
    """What is removed before speaking."""

    markdown: bool = True
    emoji: bool = True
    urls: bool = True
    code_blocks: bool = True
    machine_text: bool = True
    sources: bool = True
    replacements: tuple[Rule, ...] = ()


# --- characters ------------------------------------------------------------------------------------------------------

_NEWLINES = "\n\v\f\x85\u2028\u2029"  # a carriage return counts as a blank: CR LF leaves one newline
# Invisible, though Unicode does not call them format characters; U+FFFC is our own mark, U+FFFD a decoding error.
_INVISIBLE = re.compile("[\u034f\ufe00-\ufe0f\ufffc\ufffd\U000e0100-\U000e01ef]")
_EMOJI = re.compile(  # Unicode 17 emoji-data.txt, with the pictograph blocks whole so that the next emoji are in
    "[\u231a\u231b\u2328\u23cf\u23e9-\u23f3\u23f8-\u23fa\u25fd\u25fe\u2600-\u2604\u260e\u2611\u2614\u2615\u2618\u261d"
    "\u2620\u2622\u2623\u2626\u262a\u262e\u262f\u2638-\u263a\u2640\u2642\u2648-\u2653\u265f\u2660\u2663\u2665\u2666"
    "\u2668\u267b\u267e\u267f\u2692-\u2697\u2699\u269b\u269c\u26a0\u26a1\u26a7\u26aa\u26ab\u26b0\u26b1\u26bd\u26be"
    "\u26c4\u26c5\u26c8\u26ce\u26cf\u26d1\u26d3\u26d4\u26e9\u26ea\u26f0-\u26f5\u26f7-\u26fa\u26fd\u2702\u2705"
    "\u2708-\u270d\u270f\u2712\u2714\u2716\u271d\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757"
    "\u2763\u2764\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55\U0001f004\U0001f0cf\U0001f170\U0001f171\U0001f17e"
    "\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1e6-\U0001f1ff\U0001f201\U0001f202\U0001f21a\U0001f22f"
    "\U0001f232-\U0001f23a\U0001f250\U0001f251\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7ff"
    "\U0001f90c-\U0001f9ff\U0001fa70-\U0001faff]"
)
_VARIATION, _KEYCAP = "\ufe0f", "\u20e3"
_KEYCAP_BASES = "0123456789#*"
# Ordinary characters, such as arrows and ℹ, that are an emoji only before U+FE0F.
_STYLED = "\u203c\u2049\u2139\u2194-\u2199\u21a9\u21aa\u24c2\u25aa\u25ab\u25b6\u25c0\u25fb\u25fc\u27a1\u2934\u2935"
_MAY_BE_EMOJI = re.compile(f"[{_KEYCAP_BASES}{_STYLED}\u2b05-\u2b07\u3030\u303d\u3297\u3299]")
# A shortcut for what passes anyway: letters and most of ASCII, with single blanks.
_WORD = r"""(?:[!"$-)+-/:-~]|[^\W\d_\u2139])+"""
_WORDS = re.compile(f"{_WORD}(?: {_WORD})*")


def visible(char: str, emoji: bool) -> str:
    """Return the character, a plain newline or blank, LEFT_OUT for an emoji if those are removed, or nothing."""
    if char.isascii() and char.isprintable():
        return char
    if char in _NEWLINES:
        return "\n"
    if char.isspace():
        return " "
    if unicodedata.category(char) in ("Cc", "Cf", "Cs") or _INVISIBLE.match(char):
        return ""
    return LEFT_OUT if emoji and _EMOJI.match(char) else char


def _is_high(char: str) -> bool:
    return "\ud800" <= char <= "\udbff"


class CharacterFilter:
    """Passes visible characters on, with single blanks, so that later filters never see other code points."""

    def __init__(self, emoji: bool) -> None:
        self._emoji = emoji
        self._held = ""  # half of a surrogate pair, or what the next character may turn into an emoji
        self._last = "\n"

    def feed(self, text: str) -> str:
        out, at = [], 0
        while at < len(text):
            if not self._held and (words := _WORDS.match(text, at)):
                out.append(words.group())
                self._last, at = out[-1][-1], words.end()
            else:
                out.append(self._next(text[at]))
                at += 1
        return "".join(out)

    def end(self) -> str:
        held, self._held = self._held, ""
        return self._out(held)

    def _next(self, char: str) -> str:
        held, self._held = self._held, ""
        if _is_high(held):
            is_pair = "\udc00" <= char <= "\udfff"
            char = (held + char).encode("utf-16", "surrogatepass").decode("utf-16") if is_pair else char
            held = ""
        if held and held in _KEYCAP_BASES and char == _VARIATION:
            self._held = held  # 1 + U+FE0F is still the number one; only U+20E3 makes it a keycap
            return ""
        if held and char == (_KEYCAP if held in _KEYCAP_BASES else _VARIATION):
            return self._spaced(LEFT_OUT)
        out = self._out(held)
        if _is_high(char) or (self._emoji and _MAY_BE_EMOJI.match(char)):
            self._held = char
            return out
        return out + self._out(char)

    def _out(self, char: str) -> str:
        return self._spaced(visible(char, self._emoji))

    def _spaced(self, plain: str) -> str:
        if plain == " " and self._last in " \n":
            return ""
        self._last = plain or self._last
        return plain


# --- segments --------------------------------------------------------------------------------------------------------

_OPENERS = r"(\[{<（【「『《“‘„\"'«‹"
_CLOSERS = r")\]}>）】」』》”’\"'»›"
# Possessive quantifiers, and one look at each run, keep the time linear: a run may fill a whole segment.
_EMPTIED = re.compile(rf"[{_OPENERS}] *+{LEFT_OUT}[ ,;{LEFT_OUT}]*+[{_CLOSERS}]")
_UNSPOKEN = re.compile(rf"[ {LEFT_OUT}]++")
_BEFORE_UNSPOKEN = frozenset(re.sub(r"\\(.)", r"\1", _OPENERS) + "¿¡")
_AFTER_UNSPOKEN = frozenset(".,;:!?…、，。；：！？" + re.sub(r"\\(.)", r"\1", _CLOSERS))
# `Markup` knows lower case only: to hold back every capital H would delay each sentence that begins with How.
_SHOUTED_URL = re.compile(r"(?<![\w@.-])(?i:https?://|www\.)(?=\w)[^\s<>\"|]*[\w/]")
# An address without a scheme: a host with a port or a path, such as 192.168.1.5:8123 or box.local/config.
# A version such as 2.0.1, a time and `e.g.` do not match.
_BARE_URL = re.compile(
    r"(?<![\w@.:/-])(?:\d{1,3}(?:\.\d{1,3}){3}|[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,24}|localhost)"
    r"(?::\d{2,5}(?!\d)(?:/[^\s<>\"|]*[\w/])?|/[^\s<>\"|]*[\w/])"
)
_CELL_BORDER = re.compile(r"(?P<stop>[.,;:!?…]?) \|(?: \|)*(?= )")
_BELATED = re.compile("[ 。！？｡।॥؟۔」』）】〕〉》］｣”、，；：]+")  # belongs to the segment before


def tidy(segment: str, cleaning: CleaningOptions) -> str:
    """Return the segment without marks and border characters; the user's rules are applied after it."""
    text = _BARE_URL.sub(LEFT_OUT, _SHOUTED_URL.sub(LEFT_OUT, segment)) if cleaning.urls else segment
    text = " ".join(_UNSPOKEN.sub(_without_edge_run, _EMPTIED.sub(LEFT_OUT, text)).replace(LEFT_OUT, " ").split())
    if belated := _BELATED.match(text):
        text = text[belated.end() :]
    if cleaning.markdown:
        text = _CELL_BORDER.sub(lambda border: border["stop"] or ",", text.strip(" |"))
    return text


def _without_edge_run(run: re.Match[str]) -> str:
    """Return a run of blanks and LEFT_OUT marks; nothing if it has a mark and touches an edge or punctuation."""
    if LEFT_OUT not in run[0]:
        return run[0]
    text, start, end = run.string, run.start(), run.end()
    at_edge = start == 0 or end == len(text) or text[start - 1] in _BEFORE_UNSPOKEN or text[end] in _AFTER_UNSPOKEN
    return "" if at_edge else run[0]


# --- ends ------------------------------------------------------------------------------------------------------------

_ENDED = re.compile(rf"[.!?…‼⁇⁈⁉‽:;,。｡！？：；，、।॥؟۔؛،။၊။–—-][ {_CLOSERS}]*\Z")
_STOPS = {"CJK": "。", "HIRAGANA": "。", "KATAKANA": "。", "DEVANAGARI": "।", "BENGALI": "।"}


def with_stop(segment: str) -> str:
    """Return the segment with a full stop at its end, so that engines pause where an item, row or paragraph ends."""
    if _ENDED.search(segment):
        return segment
    last = next((char for char in reversed(segment) if char.isalnum()), "")
    script = unicodedata.name(last, "").partition(" ")[0] if last else ""
    return segment + _STOPS.get(script, ".")
