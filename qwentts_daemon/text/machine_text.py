"""Drops what a language model writes for machines: its reasoning, its tool calls and special tokens.

It decides one character at a time, so the fragments in which a text arrives do not matter, and holds back only what may
become a mark. A block that is never closed, such as that of a reply that was cut off, is dropped to its end.
"""

import re
from collections.abc import Callable

_ELEMENTS = (
    "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|inner_monologue|seed:think|"
    "tool_?calls?|tool_?use|tool_?code|tool_?outputs?|tool_?responses?|tool_?results?|function_?calls?|"
    "function_?results?|invoke"
)
_WRAPPERS = "answer|final|final_answer|response"
_OPENING = re.compile(
    rf"<(?P<element>{_ELEMENTS})(?:[ \n][^<>]{{0,60}})?>"
    r"|\[(?P<bracket>(?-i:THINK|TOOL_CALLS|TOOL_RESULTS))\]"
    r"|◁(?P<triangle>think)▷"
    r"|<[|｜](?P<section>tool[_▁]calls?|tool[_▁]calls?[_▁]section)[_▁]begin[|｜]>"
    r"|<\|begin_of_(?P<part>thought)\|>"
    r"|<\|(?P<channel>channel|start)\|>"
    r"|<\|(?P<half>channel)>",
    re.IGNORECASE,
)
"""The beginning of a block for machines; the name of its group selects how it ends."""

_CLOSING: dict[str, Callable[[str], str]] = {
    "element": lambda name: rf"</{name}\s*>",
    "bracket": lambda name: rf"\[/{name}\]|</s>" + ("" if name == "THINK" else r"|\n"),
    "triangle": lambda name: rf"◁/{name}▷",
    "section": lambda name: rf"<[|｜]{name}[_▁]end[|｜]>",
    "part": lambda name: rf"<\|end_of_{name}\|>",
    # Harmony, https://cookbook.openai.com/articles/openai-harmony: only the channel `final` is for the user.
    "channel": lambda name: r"(?:<\|channel\|>\s*final\b[^<]*|<\|start\|>[\w ]*)<\|message\|>",
    "half": lambda name: rf"<{name}\|>",
}
_SPECIAL_TOKEN = re.compile(
    rf"</?(?:{_ELEMENTS}|{_WRAPPERS})>|\[/(?-i:THINK|TOOL_CALLS|TOOL_RESULTS)\]|◁/think▷|<[|｜][\w/▁]{{1,40}}[|｜]>|</?s>",
    re.IGNORECASE,
)
"""A mark that means something to its model only; what follows it is spoken."""

_GROWING = re.compile(
    rf"</?[a-z_:]{{0,20}}|<(?:{_ELEMENTS})[ \n][^<>]{{0,60}}|<[|｜][\w/▁]{{0,40}}[|｜]?"
    r"|\[/?(?-i:[A-Z_]{0,12})|◁/?[a-z]{0,5}",
    re.IGNORECASE,
)
"""Every beginning of a mark and little else: `a < b`, `<3` and `[x]` pass with their next character."""

_PLAIN = re.compile(r"[^<\[◁]+")
_REMEMBERED = 120
"""Characters of a dropped block that its closing mark may take."""


class MachineTextFilter:
    """Passes on what is meant for listeners."""

    def __init__(self) -> None:
        self._held = ""  # what may become a mark; of a block that is being dropped, its last characters
        self._closing: re.Pattern[str] | None = None
        self._before = "\n"

    def feed(self, text: str) -> str:
        """Return the characters that are certain to be spoken by now."""
        out: list[str] = []
        at = 0
        while at < len(text):
            if not self._held and not self._closing and (run := _PLAIN.match(text, at)):
                out.append(self._passed(run[0]))
                at = run.end()
                continue
            out.append(self._drop(text[at]) if self._closing else self._grow(text[at]))
            at += 1
        return "".join(out)

    def end(self) -> str:
        """Return what was held back and did not become a mark."""
        held, self._held = self._held, ""
        return "" if self._closing else held

    def _passed(self, text: str) -> str:
        self._before = text[-1:] or self._before
        return text

    def _grow(self, char: str) -> str:
        self._held += char
        if _GROWING.fullmatch(self._held):
            return ""
        is_mark = not self._is_quoted()
        if is_mark and (opening := _OPENING.fullmatch(self._held)):
            kind = opening.lastgroup or ""
            self._closing = re.compile(rf"(?:{_CLOSING[kind](opening[kind])})\Z", re.IGNORECASE)
            return ""
        held, self._held = self._held, ""
        if is_mark and _SPECIAL_TOKEN.fullmatch(held):
            return ""
        return self._passed(held[0]) + self.feed(held[1:])

    def _is_quoted(self) -> bool:
        """Return whether the text is about the mark, as in `<think>`, or uses it as code, as in List<think>."""
        return self._before in "`\"'“‘«" or (self._before.isalnum() and self._held[1:2] not in "|｜/")

    def _drop(self, char: str) -> str:
        self._held = (self._held + char)[-_REMEMBERED:]
        if char not in ">▷]\n" or not self._closing or not self._closing.search(self._held):
            return ""
        self._held, self._closing = "", None
        return "" if self._before.isspace() else self._passed(" ")
