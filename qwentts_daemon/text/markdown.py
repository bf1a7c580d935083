"""Removes markdown, HTML and addresses from a text that is still being written.

It decides one character at a time and in bounded memory: a skipped address or code block is not kept.
"""

import re
from collections import Counter
from dataclasses import dataclass
from html import unescape
from html.entities import html5

from .characters import BREAK, LEFT_OUT, UNSPACED, CleaningOptions, visible

# --- tokens ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Context:
    """The tokens that may occur at one kind of place.

    Text is held back as long as `growing` matches all of it, for it may still become a longer token; then the first of
    `tokens` that fits its beginning is taken. So `growing` must match every true beginning of a token that needs
    lookahead, and its bounds keep memory and time small. `_on_<name>` of Markup acts on the token `name`.
    """

    growing: re.Pattern[str]
    tokens: re.Pattern[str]


def _context(growing: list[str], tokens: dict[str, str]) -> _Context:
    named = (f"(?P<{name}>{pattern})" for name, pattern in tokens.items())
    return _Context(re.compile("|".join(growing)), re.compile("|".join(named), re.DOTALL))


_LABEL = r"[^\[\]\n]{0,200}"
_TARGET = r"""\( ?<?[^ \n<>()]*(?:\([^ \n()]*\)[^ \n()]*)*>?(?: (?:"[^"\n]*"|'[^'\n]*'))? ?\)"""
_TARGET_GROWING = r"(?=.{0,400}\Z)\((?:[^\n()]|\([^\n()]*\))*(?:\([^\n()]*)?"
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
_START = _context(
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
_INLINE = _context(
    [
        *(r"\\", r"`{1,20}", r"\*{1,20}", r"_{1,20}", r"~{1,20}", r"#{1,20} ?", "!", r"&#?\w{0,31}", _URL_GROWING),
        *(rf"!?\[{_LABEL}\]?", rf"!?\[{_LABEL}\]\[[^\[\]\n]{{0,100}}", rf"(?:!?\[{_LABEL})?\](?:{_TARGET_GROWING})?"),
        rf"<(?:!-?|[^ \n<>]{{0,300}}|/?(?i:{_BLOCK_TAG}|{_INLINE_TAG})[ /][^<>\n]{{0,300}})",
    ],
    {
        "newline": r"\n",
        "escape": r"\\[!-/:-@\[-`{-~]|\\(?=\n)",
        "ticks": r"`{1,20}",
        "emphasis": r"\*{1,20}|_{1,20}|~{2,20}",
        "footnote": r"\[\^[^\[\]\n ]{1,40}\]",
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
_VERBATIM = _context([r"`{1,20}", _URL_GROWING], {"newline": r"\n", "ticks": r"`{1,20}", "url": _URL, "plain": "."})
_SPOKEN_CODE = _context([_URL_GROWING], {"code_line": r"\n", "url": _URL, "plain": "."})
_SILENT_CODE = _context([], {"code_line": r"\n", "dropped": "."})
_CODE_START = _context(
    [r"[> ]{0,9}(?:`{0,40}|~{0,40}) ?"],
    {"fence_end": r"[> ]{0,9}(?P<marks>`{3,40}|~{3,40}) ?(?=\n|\Z)", "code": ""},
)
_URL_REST = _context(
    [rf"{_URL_TRAIL}{{1,8}}", _URL_BRACKETED],
    {"back": rf"{_URL_TRAIL}{{0,8}}(?={_URL_STOP}|\Z)", "dropped": rf"{_URL_BRACKETED}\)|."},
)
_TARGET_REST = _context([], {"closed": r"\)", "back": r"(?=[ \n])", "dropped": "."})
_COMMENT_REST = _context(["-{1,2}"], {"closed": "-->", "dropped": "."})
_DEFINITION_REST = _context([], {"back": r"(?=\n)", "dropped": "."})
# A shortcut: no token of _INLINE or _VERBATIM but a single plain character begins with any of these.
_UNREMARKABLE = re.compile(r"(?:[^\n\\`*_~#!\[\]<&|hw]|(?<=[a-zA-Z])[hw])+")
_WITHOUT_BLANKS = re.compile(f"[{UNSPACED}\uac00-\ud7af]")  # Korean particles stick to what they follow


def _is_word(char: str) -> bool:
    return char.isalnum() and not _WITHOUT_BLANKS.match(char)


# --- what they do ----------------------------------------------------------------------------------------------------


class MarkdownStripper:
    """Keeps the visible characters that are spoken, with a BREAK at the end of each element.

    A state machine over contexts; `_return` is the context to come back to after what is dropped.

    | context          | place                                          | next                                     |
    |------------------|------------------------------------------------|------------------------------------------|
    | _START           | start of a line, at and between its markers    | text, row → inline; fence → code;        |
    |                  |                                                | definition → _DEFINITION_REST            |
    | _INLINE          | within a line                                  | newline → _START; ticks → _VERBATIM;     |
    |                  |                                                | url → _URL_REST; endless → _TARGET_REST; |
    |                  |                                                | comment → _COMMENT_REST                  |
    | _VERBATIM        | in a code span, or everywhere without markdown | newline → _START; ticks → _INLINE;       |
    |                  |                                                | url → _URL_REST                          |
    | _SPOKEN_CODE,    | a line of a fenced code block                  | code_line → _CODE_START; url → _URL_REST |
    | _SILENT_CODE     |                                                |                                          |
    | _CODE_START      | start of a line in a fenced code block         | fence_end → _START; code → code          |
    | _..._REST        | an address, target, comment or definition      | closed, back → _return                   |
    """

    def __init__(self, cleaning: CleaningOptions) -> None:
        self._cleaning = cleaning
        self._inline = _INLINE if cleaning.markdown else _VERBATIM
        self._code = _SILENT_CODE if cleaning.code_blocks else _SPOKEN_CODE
        self._context = _START
        self._return = self._inline  # the context behind what is passed over
        self._held = ""
        self._before = "\n"  # the last character taken: it decides between an opening and a closing star
        self._open: Counter[str] = Counter()
        self._ticks = self._fence = ""
        self._own_line = self._heading = False  # whether the line is a thing of its own, such as a list item
        self._out: list[str] = []

    def feed(self, text: str) -> str:
        at = 0
        while at < len(text):
            if not self._held and self._context in (_INLINE, _VERBATIM) and (run := _UNREMARKABLE.match(text, at)):
                self._out.append(run.group())
                self._before, at = run.group()[-1], run.end()
                continue
            self._held += text[at]
            at += 1
            while self._held and not self._context.growing.fullmatch(self._held):
                self._take()
        return self._flush()

    def end(self) -> str:
        while self._held:
            self._take()
        return self._flush()

    def _flush(self) -> str:
        out = "".join(self._out)
        self._out.clear()
        return out

    def _take(self) -> None:
        token = self._context.tokens.match(self._held)
        assert token, self._held
        self._held = self._held[token.end() :]
        getattr(self, f"_on_{token.lastgroup}")(token)
        self._before = token.group()[-1:] or self._before

    def _emit(self, token: re.Match[str]) -> None:
        self._out.append(token.group())

    def _drop(self, token: re.Match[str]) -> None:
        pass

    def _enter(self, context: _Context, token: re.Match[str]) -> None:
        """Read the token again in another context."""
        self._context = context
        self._held = token.group() + self._held

    _on_blank = _on_plain = _emit
    _on_dropped = _on_footnote = _on_link = _on_target = _drop

    # Markers at the beginning of a line.

    def _break(self) -> None:
        self._out.append(BREAK)
        self._own_line = self._heading = False
        self._open.clear()

    def _mark(self, token: re.Match[str]) -> None:
        if not self._cleaning.markdown:
            self._emit(token)

    def _item(self, token: re.Match[str]) -> None:
        self._break()
        self._own_line = True
        self._mark(token)

    _on_quote = _on_note = _mark
    _on_ruler = _on_bullet = _item

    def _on_blank_line(self, token: re.Match[str]) -> None:
        self._break()

    def _on_heading(self, token: re.Match[str]) -> None:
        self._item(token)
        self._heading = True

    def _on_number(self, token: re.Match[str]) -> None:
        self._break()
        self._own_line = True
        self._emit(token)

    def _on_box(self, token: re.Match[str]) -> None:
        if self._own_line:
            self._mark(token)
        else:
            self._on_text(token)

    def _on_row(self, token: re.Match[str]) -> None:
        self._item(token)
        self._context = self._inline

    def _on_definition(self, token: re.Match[str]) -> None:
        if self._cleaning.markdown:
            self._item(token)
            self._pass_over(_DEFINITION_REST, self._inline)
        else:
            self._on_text(token)

    def _on_text(self, token: re.Match[str]) -> None:
        self._enter(self._inline, token)

    # Code blocks.

    def _on_fence(self, token: re.Match[str]) -> None:
        if not (self._cleaning.code_blocks or self._cleaning.markdown):
            self._on_text(token)
            return
        mark = token.group()[0]
        self._fence = mark * (len(token.group()) - len(token.group().lstrip(mark)))
        self._context = self._code

    def _on_code_line(self, token: re.Match[str]) -> None:
        self._out.append(BREAK)
        self._context = _CODE_START

    def _on_code(self, token: re.Match[str]) -> None:
        self._enter(self._code, token)

    def _on_fence_end(self, token: re.Match[str]) -> None:
        if token["marks"].startswith(self._fence):
            self._context = _START
        else:
            self._on_code(token)

    # Within a line.

    def _on_newline(self, token: re.Match[str]) -> None:
        if self._own_line:
            self._break()
        else:
            self._out.append(" ")
        self._ticks = ""
        self._inline = _INLINE if self._cleaning.markdown else _VERBATIM
        self._context = _START

    def _on_escape(self, token: re.Match[str]) -> None:
        self._out.append(token.group()[1:])

    def _on_ticks(self, token: re.Match[str]) -> None:
        """Open or close a code span. One that is never closed ends with its line."""
        if not self._cleaning.markdown or self._ticks not in ("", token.group()):
            self._emit(token)
            return
        self._ticks = "" if self._ticks else token.group()
        self._context = self._inline = _VERBATIM if self._ticks else _INLINE

    def _on_emphasis(self, token: re.Match[str]) -> None:
        if not self._is_emphasis(token.group(), self._before, self._held[:1]):
            self._emit(token)

    def _is_emphasis(self, run: str, before: str, after: str) -> bool:
        """Decide nearly as CommonMark does, but at once, and more leniently: models write **“好”**的 as well."""
        kind = run[:2]
        if (before.isspace() and not after.strip()) or (before.isdigit() and after.isdigit()):
            return False
        if self._open[kind] and not before.isspace() and not (run[0] == "_" and _is_word(after)):
            self._open[kind] -= 1
            return True
        if after.strip() and not _is_word(before):
            self._open[kind] += 1
            return True
        return kind in ("**", "~~") and not _is_word(after)

    def _on_hashes(self, token: re.Match[str]) -> None:
        if not (self._heading and self._before == " "):
            self._emit(token)

    def _on_reference(self, token: re.Match[str]) -> None:
        if token["label"].isdigit() or _is_word(self._before):  # sources [1][2]; m[0][1]
            self._out.append("[")
            self._held = token.group()[1:] + self._held
        else:
            self._held = token["label"] + self._held

    def _on_tag(self, token: re.Match[str]) -> None:
        self._out.append(BREAK if token["block"] else "")

    def _on_autolink(self, token: re.Match[str]) -> None:
        address = token["address"]
        self._out.append(LEFT_OUT if self._cleaning.urls and "://" in address else address)

    def _on_entity(self, token: re.Match[str]) -> None:
        name = token.group()[1:]
        if name[0] == "#" or name in html5:
            self._out.extend(visible(char, self._cleaning.emoji) for char in unescape(token.group()))
        else:
            self._out.append("&")
            self._held = name + self._held

    def _on_pipe(self, token: re.Match[str]) -> None:
        if self._own_line or self._before.isspace():  # the row of a table, which may lack its first pipe
            self._own_line = True
            self._out.append(" | ")
        else:
            self._emit(token)

    # Skipped elements of any length.

    def _pass_over(self, rest: _Context, then: _Context) -> None:
        self._context, self._return = rest, then

    def _on_url(self, token: re.Match[str]) -> None:
        if not self._cleaning.urls or _is_word(self._before) or self._before in "@._-":
            self._emit(token)
        else:
            self._out.append(LEFT_OUT)
            self._pass_over(_URL_REST, self._context)

    def _on_endless(self, token: re.Match[str]) -> None:
        self._pass_over(_TARGET_REST, self._inline)

    def _on_comment(self, token: re.Match[str]) -> None:
        self._pass_over(_COMMENT_REST, self._inline)

    def _on_closed(self, token: re.Match[str]) -> None:
        self._context = self._return

    def _on_back(self, token: re.Match[str]) -> None:
        self._enter(self._return, token)
