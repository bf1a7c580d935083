"""Removes markdown, HTML and addresses from a text that is still being written.

It decides one character at a time and in bounded memory: a skipped address or code block is not kept.
"""

import re
from collections import Counter
from html import unescape
from html.entities import html5

from .characters import BREAK, LEFT_OUT, CleaningOptions, visible
from .markdown_tokens import (
    CODE_START,
    COMMENT_REST,
    DEFINITION_REST,
    INLINE,
    SILENT_CODE,
    SPOKEN_CODE,
    START,
    TARGET_REST,
    UNREMARKABLE,
    URL_REST,
    VERBATIM,
    WITHOUT_BLANKS,
    Context,
)

WRAP_COLUMN = 50
"""A line of at least this many characters ends where it was wrapped, not where its writer wanted an end."""


def _is_word(char: str) -> bool:
    return char.isalnum() and not WITHOUT_BLANKS.match(char)


def _is_wrapped(before: str, after: str) -> bool:
    """Return whether a newline in a paragraph only wraps it: models mean most newlines, but a sentence may go on."""
    first = next((char for char in after if char.isalnum()), "")
    return before in ",(–—-" or first.islower()


class MarkdownStripper:
    """Keeps the visible characters that are spoken, with a BREAK at the end of each element.

    A state machine over contexts; `_return` is the context to come back to after what is dropped.

    | context      | place                                          | next                                   |
    |--------------|------------------------------------------------|----------------------------------------|
    | START        | start of a line, at and between its markers    | text, row → inline; fence → code;      |
    | INLINE       | within a line                                  | newline → START; ticks → VERBATIM;     |
    | VERBATIM     | in a code span, or everywhere without markdown | newline → START; ticks → INLINE;       |
    | SPOKEN_CODE, | a line of a fenced code block                  | code_line → CODE_START; url → URL_REST |
    | SILENT_CODE  |                                                |                                        |
    | CODE_START   | start of a line in a fenced code block         | fence_end → START; code → code         |
    | ..._REST     | an address, target, comment or definition      | closed, back → _return                 |
    """

    def __init__(self, cleaning: CleaningOptions) -> None:
        self._cleaning = cleaning
        self._inline = INLINE if cleaning.markdown else VERBATIM
        self._code = SILENT_CODE if cleaning.code_blocks else SPOKEN_CODE
        self._context = START
        self._return = self._inline  # the context behind what is passed over
        self._held = ""
        self._before = "\n"  # the last character taken: it decides between an opening and a closing star
        self._open: Counter[str] = Counter()
        self._ticks = self._fence = ""
        self._own_line = self._heading = False  # whether the line is a thing of its own, such as a list item
        self._column = 0  # characters of the line so far
        self._newline = ""  # the last character before a newline that may only wrap its paragraph
        self._out: list[str] = []

    def feed(self, text: str) -> str:
        at = 0
        while at < len(text):
            if not self._held and self._context in (INLINE, VERBATIM) and (run := UNREMARKABLE.match(text, at)):
                self._out.append(run.group())
                self._before, at = run.group()[-1], run.end()
                self._column += len(run.group())
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
        self._column = 0 if token.lastgroup == "newline" else self._column + len(token.group())

    def _emit(self, token: re.Match[str]) -> None:
        self._out.append(token.group())

    def _drop(self, token: re.Match[str]) -> None:
        pass

    def _enter(self, context: Context, token: re.Match[str]) -> None:
        """Read the token again in another context."""
        self._context = context
        self._held = token.group() + self._held

    _on_blank = _on_plain = _emit
    _on_dropped = _on_footnote = _on_link = _on_target = _drop

    def _on_source(self, token: re.Match[str]) -> None:
        if self._cleaning.sources:
            self._out.append(LEFT_OUT)
        else:
            self._out.append(token.group().strip("[【】").partition("]")[0])

    # Markers at the beginning of a line.

    def _break(self) -> None:
        self._out.append(BREAK)
        self._own_line = self._heading = False
        self._newline = ""
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
            self._pass_over(DEFINITION_REST, self._inline)
        else:
            self._on_text(token)

    def _on_text(self, token: re.Match[str]) -> None:
        if self._newline:
            self._end_line(wrapped=_is_wrapped(self._newline, self._held))
        self._enter(self._inline, token)

    def _end_line(self, wrapped: bool) -> None:
        if wrapped:
            self._newline = ""
            self._out.append(" ")
        else:
            self._break()

    # Code blocks.

    def _on_fence(self, token: re.Match[str]) -> None:
        if not (self._cleaning.code_blocks or self._cleaning.markdown):
            self._on_text(token)
            return
        if self._newline:
            self._break()
        mark = token.group()[0]
        self._fence = mark * (len(token.group()) - len(token.group().lstrip(mark)))
        self._context = self._code

    def _on_code_line(self, token: re.Match[str]) -> None:
        self._out.append(BREAK)
        self._context = CODE_START

    def _on_code(self, token: re.Match[str]) -> None:
        self._enter(self._code, token)

    def _on_fence_end(self, token: re.Match[str]) -> None:
        if token["marks"].startswith(self._fence):
            self._context = START
        else:
            self._on_code(token)

    # Within a line.

    def _on_newline(self, token: re.Match[str]) -> None:
        if self._own_line:
            self._break()
        elif self._column >= WRAP_COLUMN:
            self._out.append(" ")
        else:
            self._newline = self._before
        self._ticks = ""
        self._inline = INLINE if self._cleaning.markdown else VERBATIM
        self._context = START

    def _on_escape(self, token: re.Match[str]) -> None:
        self._out.append(token.group()[1:])

    def _on_ticks(self, token: re.Match[str]) -> None:
        """Open or close a code span. One that is never closed ends with its line."""
        if not self._cleaning.markdown or self._ticks not in ("", token.group()):
            self._emit(token)
            return
        self._ticks = "" if self._ticks else token.group()
        self._context = self._inline = VERBATIM if self._ticks else INLINE

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

    def _pass_over(self, rest: Context, then: Context) -> None:
        self._context, self._return = rest, then

    def _on_url(self, token: re.Match[str]) -> None:
        if not self._cleaning.urls or _is_word(self._before) or self._before in "@._-":
            self._emit(token)
        else:
            self._out.append(LEFT_OUT)
            self._pass_over(URL_REST, self._context)

    def _on_endless(self, token: re.Match[str]) -> None:
        self._pass_over(TARGET_REST, self._inline)

    def _on_comment(self, token: re.Match[str]) -> None:
        self._pass_over(COMMENT_REST, self._inline)

    def _on_closed(self, token: re.Match[str]) -> None:
        self._context = self._return

    def _on_back(self, token: re.Match[str]) -> None:
        self._enter(self._return, token)
