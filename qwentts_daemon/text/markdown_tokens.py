"""The tokens of markdown, HTML and addresses, and at which kind of place each may occur."""

import re
from dataclasses import dataclass

from .characters import LEFT_OUT, UNSPACED


@dataclass(frozen=True, slots=True)
class Context:
    """The tokens that may occur at one kind of place.

    Text is held back as long as `growing` matches all of it, for it may still become a longer token; then the first of
    `tokens` that fits its beginning is taken. So `growing` must match every true beginning of a token that needs
    lookahead, and its bounds keep memory and time small. `_on_<name>` of MarkdownStripper acts on the token `name`.
    """

    growing: re.Pattern[str]
    tokens: re.Pattern[str]


def _context(growing: list[str], tokens: dict[str, str]) -> Context:
    named = (f"(?P<{name}>{pattern})" for name, pattern in tokens.items())
    return Context(re.compile("|".join(growing)), re.compile("|".join(named), re.DOTALL))


_LABEL = r"[^\[\]\n]{0,200}"
_TARGET = r"""\( ?<?[^ \n<>()]*(?:\([^ \n()]*\)[^ \n()]*)*>?(?: (?:"[^"\n]*"|'[^'\n]*'))? ?\)"""
_TARGET_GROWING = r"(?=.{0,400}\Z)\((?:[^\n()]|\([^\n()]*\))*(?:\([^\n()]*)?"
# The text of a link that cites a source: an address, or the number of a note.
_SOURCE = r"(?:(?:https?://)?[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}(?:/[^\[\]\n ]{0,100})?|\^?\d{1,3})"
_ENDLESS = r"\([^ \n()]{250}"  # a target too long to be held back, such as an image that is its own address
_BLOCK_TAG = (
    "br|hr|p|div|ul|ol|li|dl|dt|dd|h[1-6]|pre|blockquote|table|thead|tbody|tr|th|td|section|article|details|summary"
)
_INLINE_TAG = (
    "a|abbr|b|big|cite|code|del|em|font|i|img|ins|kbd|mark|q|rp|rt|ruby|s|samp|small|span|strike|strong|sub|sup|tt|u|"
    "var"
)
_ATTRIBUTES = r"""(?: [\w:-]+ ?= ?(?:"[^"<>\n]*"|'[^'<>\n]*'|[^ "'<>=\n]+))* ?/?"""
_URL = r"(?:https?://|www\.)(?=[^\W_]|\[)"
_URL_GROWING = r"h|ht|htt|https?|https?:|https?:/|https?://|w|ww|www|www\."
_URL_STOP = rf"""(?:[ \n<>"`|{LEFT_OUT}\u00ab\u00bb\u2010-\u205e\uac00-\ud7af{UNSPACED}]|\]\()"""
_URL_TRAIL = r"[.,;:!?'*_~)\]}]"  # at the end of an address it belongs to the sentence
_URL_BRACKETED = rf"\((?:(?!{_URL_STOP})[^()]){{0,100}}"

# The beginning of a line, behind any number of markers. Indentation has been removed: indented code is spoken.
START = _context(
    [
        *(r"#{1,6}", r"(?P<c>[-*_=])(?P=c){0,19}", r"[+–—]", r"\d{1,9}[.)]?"),
        *(r"`{1,20}", r"`{3,20}[^`\n]{0,99}", r"~{1,20}", r"~{3,20} ?[\w+#.-]{0,30} ?"),
        r"\[[^\[\]\n]{0,100}(?:\](?:: ?(?:<?[a-z:/.]{0,8})?)?)?",
    ],
    {
        "blank_line": r"\n",
        "blank": " ",
        "fence": r"(?:`{3,20}[^`\n]{0,99}|~{3,20} ?[\w+#.-]{0,30} ?)(?=\n|\Z)",
        "ruler": r"(?P<c>[-*_=])(?P=c){2,}(?=[ \n]|\Z)",  # or as much of it as is held back
        "heading": r"#{1,6}(?=[ \n]|\Z)",
        "quote": ">",
        "bullet": rf"[-*+–—](?=[ \n]|\Z)|[•◦‣{LEFT_OUT}]",  # an emoji too, as models like to write lists
        "box": r"\[[ xX]\](?= )",
        "number": r"\d{1,9}[.)](?=[ \n]|\Z)",
        "row": r"\|",
        "definition": r"\[(?!\^)[^\[\]\n]{1,100}\]: ?<?(?:https?://|www\.|mailto:)",
        "note": r"\[\^[^\[\]\n]{1,40}\]:",
        "text": "",
    },
)
INLINE = _context(
    [
        *(r"\\", r"`{1,20}", r"\*{1,20}", r"_{1,20}", r"~{1,20}", r"#{1,20} ?", "!", r"&#?\w{0,31}", _URL_GROWING),
        *(rf"!?\[{_LABEL}\]?", rf"!?\[{_LABEL}\]\[[^\[\]\n]{{0,100}}", rf"(?:!?\[{_LABEL})?\](?:{_TARGET_GROWING})?"),
        r"【(?:\d[^【】\n]{0,80})?",
        rf"<(?:!-?|[^ \n<>]{{0,300}}|/?(?i:{_BLOCK_TAG}|{_INLINE_TAG})[ /][^<>\n]{{0,300}})",
    ],
    {
        "newline": r"\n",
        "escape": r"\\[!-/:-@\[-`{-~]|\\(?=\n)",
        "ticks": r"`{1,20}",
        "emphasis": r"\*{1,20}|_{1,20}|~{2,20}",
        "footnote": r"\[\^[^\[\]\n ]{1,40}\]",
        "source": rf"\[{_SOURCE}\]{_TARGET}|【\d[^【】†\n]{{0,40}}†[^【】†\n]{{0,40}}】",
        "link": rf"!?\[(?={_LABEL}\](?:{_TARGET}|{_ENDLESS}))|\[(?=!\[)",  # its text follows; or a badge
        "target": rf"\]{_TARGET}",
        "endless": rf"\]{_ENDLESS}",
        "reference": rf"!?\[(?P<label>{_LABEL})\]\[[^\[\]\n]{{0,100}}\]",
        "comment": "<!--",
        "tag": rf"</?(?i:(?P<block>{_BLOCK_TAG})|{_INLINE_TAG}){_ATTRIBUTES}>",
        "autolink": r"<(?P<address>https?://[^ \n<>]{1,290}|[^ \n<>@/]{1,64}@[^ \n<>@/]{1,200})>",
        "entity": r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});",
        "hashes": r"#{1,20} ?(?=\n|\Z)",
        "url": _URL,
        "pipe": r"\|",
        "plain": ".",
    },
)
# Where markdown means nothing: in a code span, and everywhere when it is switched off.
VERBATIM = _context([r"`{1,20}", _URL_GROWING], {"newline": r"\n", "ticks": r"`{1,20}", "url": _URL, "plain": "."})
SPOKEN_CODE = _context([_URL_GROWING], {"code_line": r"\n", "url": _URL, "plain": "."})
SILENT_CODE = _context([], {"code_line": r"\n", "dropped": "."})
CODE_START = _context(
    [r"[> ]{0,9}(?:`{0,40}|~{0,40}) ?"],
    {"fence_end": r"[> ]{0,9}(?P<marks>`{3,40}|~{3,40}) ?(?=\n|\Z)", "code": ""},
)
URL_REST = _context(
    [rf"{_URL_TRAIL}{{1,8}}", _URL_BRACKETED],
    {"back": rf"{_URL_TRAIL}{{0,8}}(?={_URL_STOP}|\Z)", "dropped": rf"{_URL_BRACKETED}\)|."},
)
TARGET_REST = _context([], {"closed": r"\)", "back": r"(?=[ \n])", "dropped": "."})
COMMENT_REST = _context(["-{1,2}"], {"closed": "-->", "dropped": "."})
DEFINITION_REST = _context([], {"back": r"(?=\n)", "dropped": "."})
# A shortcut: no token of INLINE or VERBATIM but a single plain character begins with any of these.
UNREMARKABLE = re.compile(r"(?:[^\n\\`*_~#!\[\]<&|hw【]|(?<=[a-zA-Z])[hw])+")
WITHOUT_BLANKS = re.compile(f"[{UNSPACED}\uac00-\ud7af]")  # Korean particles stick to what they follow
