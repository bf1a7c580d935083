"""Counts the steps of Python's backtracking regular expressions, so that a test can bound work instead of time.

`CountingPattern` wraps a compiled pattern. Each call walks the parse tree of the pattern as `sre` does, counts every
character that is compared and every alternative that is tried, and returns the result of the real pattern. It also
compares both results, so the count belongs to the same search.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from re import _constants as codes
from re import _parser as parser
from types import ModuleType
from typing import Any

Groups = dict[int, tuple[int, int]]
Next = Callable[[int], int | None]
_SIMPLE = (codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN)


class Steps:
    """A counter that all patterns of a test share."""

    def __init__(self) -> None:
        self.count = 0
        self.limit = sys.maxsize
        """A search that reaches it fails at once: the count of a cubic expression would take hours."""


class CountingPattern:
    """A pattern whose searches are counted."""

    def __init__(self, real: re.Pattern[str], steps: Steps) -> None:
        self._real = real
        self._steps = steps
        self._tree = list(parser.parse(real.pattern, real.flags))

    def match(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> re.Match[str] | None:
        return self._compared(self._real.match(text, pos, endpos), _Run(self, text, endpos).end(pos))

    def fullmatch(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> re.Match[str] | None:
        return self._compared(self._real.fullmatch(text, pos, endpos), _Run(self, text, endpos).end(pos, whole=True))

    def search(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> re.Match[str] | None:
        return next(self.finditer(text, pos, endpos), None)

    def finditer(self, text: str, pos: int = 0, endpos: int = sys.maxsize) -> Iterator[re.Match[str]]:
        for found in self._real.finditer(text, pos, endpos):
            self._count_starts(text, pos, found, endpos)
            yield found
            pos = max(found.end(), found.start() + 1)
        self._count_starts(text, pos, None, endpos)

    def sub(self, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
        for _ in self.finditer(text):
            pass
        return self._real.sub(replacement, text)

    def _count_starts(self, text: str, pos: int, found: re.Match[str] | None, endpos: int) -> None:
        """Count a search: one attempt at each place up to the match."""
        run = _Run(self, text, endpos)
        last = found.start() if found else min(len(text), endpos)
        ends = [run.end(start) for start in range(pos, last + 1)]
        assert all(end is None or end == 0 for end in ends[:-1]) or not found
        self._compared(found, ends[-1] if ends else None)

    @staticmethod
    def _compared(found: re.Match[str] | None, end: int | None) -> re.Match[str] | None:
        assert (found.end() if found else None) == end, "the counting matcher differs from the pattern"
        return found


class _Run:
    """One attempt after another on the same text."""

    def __init__(self, pattern: CountingPattern, text: str, endpos: int) -> None:
        self._steps = pattern._steps
        self._tree = pattern._tree
        self._flags = pattern._real.flags
        self._text = text
        self._end = min(len(text), endpos)
        self._groups: Groups = {}

    def end(self, pos: int, whole: bool = False) -> int | None:
        """Return where a match that begins at `pos` ends."""
        self._groups = {}
        return self._walk(self._tree, 0, pos, self._flags, lambda at: at if not whole or at == self._end else None)

    def _walk(self, items: Any, index: int, at: int, flags: int, then: Next) -> int | None:
        self._steps.count += 1
        assert self._steps.count <= self._steps.limit, "more steps than allowed"
        if index == len(items):
            return then(at)
        code, argument = items[index]

        def rest(place: int) -> int | None:
            return self._walk(items, index + 1, place, flags, then)

        if code in _SIMPLE:
            return rest(at + 1) if self._is_one(code, argument, at, flags) else None
        if code is codes.SUBPATTERN:
            group, added, removed, body = argument
            return self._walk(body, 0, at, (flags | added) & ~removed, self._closing(group, at, rest))
        if code is codes.BRANCH:
            for body in argument[1]:
                if (end := self._walk(body, 0, at, flags, rest)) is not None:
                    return end
            return None
        if code in (codes.MAX_REPEAT, codes.POSSESSIVE_REPEAT):
            return self._repeat(argument, at, flags, rest, possessive=code is codes.POSSESSIVE_REPEAT)
        if code in (codes.ASSERT, codes.ASSERT_NOT):
            direction, body = argument
            start = at if direction > 0 else at - parser.SubPattern(parser.State(), list(body)).getwidth()[0]
            found = start >= 0 and self._walk(body, 0, start, flags, lambda place: place) is not None
            return rest(at) if found == (code is codes.ASSERT) else None
        if code is codes.AT:
            place = {codes.AT_BEGINNING: at == 0, codes.AT_END_STRING: at == self._end}
            place[codes.AT_END] = at == self._end or (at == self._end - 1 and self._text[at] == "\n")
            return rest(at) if place[argument] else None
        if code is codes.GROUPREF:
            start, end = self._groups[argument]
            same = self._text[start:end] == self._text[at : min(self._end, at + end - start)]
            return rest(at + end - start) if same else None
        raise NotImplementedError(f"{code} in a pattern: add it to the counting matcher")

    def _closing(self, group: int | None, start: int, rest: Next) -> Next:
        def closed(at: int) -> int | None:
            if group is not None:
                self._groups[group] = (start, at)
            return rest(at)

        return closed

    def _repeat(self, argument: Any, at: int, flags: int, rest: Next, possessive: bool) -> int | None:
        least, most, body = argument
        if len(body) == 1 and body[0][0] in _SIMPLE:
            end = at
            while end - at < most and self._is_one(*body[0], end, flags):
                end += 1
            for place in range(end, at + least - 1, -1):
                if (found := rest(place)) is not None or possessive:
                    return found
            return None
        assert not possessive, "a possessive group: add it to the counting matcher"
        return self._repeat_group(body, (least, most), at, flags, rest)

    def _repeat_group(self, body: Any, bounds: tuple[int, int], at: int, flags: int, rest: Next) -> int | None:
        least, most = bounds

        def again(place: int) -> int | None:
            if place == at and not least:
                return None
            return self._repeat_group(body, (max(0, least - 1), most - 1), place, flags, rest)

        if most and (end := self._walk(body, 0, at, flags, again)) is not None:
            return end
        return rest(at) if not least else None

    def _is_one(self, code: Any, argument: Any, at: int, flags: int) -> bool:
        self._steps.count += 1
        if at >= self._end:
            return False
        char = self._text[at]
        if code is codes.ANY:
            return char != "\n" or bool(flags & re.DOTALL)
        ignore = flags & re.IGNORECASE
        variants = {char, char.lower(), char.upper()} if ignore else {char}
        found = any(_contains([(code, argument)], variant) for variant in variants)
        return found if code is not codes.NOT_LITERAL else all(chr(argument) != variant for variant in variants)


_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    codes.CATEGORY_WORD: lambda char: char.isalnum() or char == "_",
    codes.CATEGORY_DIGIT: str.isdecimal,
    codes.CATEGORY_SPACE: str.isspace,
    codes.CATEGORY_NOT_WORD: lambda char: not (char.isalnum() or char == "_"),
    codes.CATEGORY_NOT_DIGIT: lambda char: not char.isdecimal(),
    codes.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
}


def _contains(items: Any, char: str) -> bool:
    code, argument = items[0]
    if code is codes.IN:
        negated = argument[0][0] is codes.NEGATE
        return any(_contains([item], char) for item in argument[negated:]) != negated
    if code is codes.RANGE:
        return bool(argument[0] <= ord(char) <= argument[1])
    if code is codes.CATEGORY:
        return _CATEGORIES[argument](char)
    return bool(ord(char) == argument)


def count_steps(modules: list[ModuleType], patch: Callable[[object, str, object], None]) -> Steps:
    """Replace the patterns of `modules`, also those in module-level dataclasses, and return their counter."""
    steps = Steps()
    for module in modules:
        for name, value in list(vars(module).items()):
            if isinstance(value, re.Pattern):
                patch(module, name, CountingPattern(value, steps))
            elif is_dataclass(value) and not isinstance(value, type):
                patterns = {field.name: getattr(value, field.name) for field in fields(value)}
                counting = {
                    key: CountingPattern(each, steps) for key, each in patterns.items() if isinstance(each, re.Pattern)
                }
                patch(module, name, replace(value, **counting))
    return steps
