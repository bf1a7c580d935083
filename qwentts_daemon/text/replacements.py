"""The user's own rules for text, within a budget of computing time.

A rule such as `(a+)+$` can take minutes for one sentence. The module `regex` understands the syntax of `re` and stops
after a given time; `re` cannot be stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import regex

BUDGET_S = 0.1
"""CPU time for all rules of one text; ordinary rules need microseconds a sentence."""

Rule = tuple[regex.Pattern[str], str]

log = logging.getLogger(__name__)


def rule(pattern: str, replacement: str) -> Rule:
    """Return a compiled rule. Raises regex.error."""
    return regex.compile(pattern), replacement


class Replacer:
    """Applies rules to the sentences of one text. Once the budget is spent, it returns sentences unchanged."""

    def __init__(self, rules: Sequence[Rule], budget_s: float = BUDGET_S) -> None:
        self._rules = rules
        self._left_s = budget_s

    def apply(self, sentence: str) -> str:
        """Return the sentence after every rule, in their order."""
        for pattern, replacement in self._rules:
            if self._left_s <= 0:
                break
            sentence = self._substituted(pattern, replacement, sentence)
        return sentence

    def _substituted(self, pattern: regex.Pattern[str], replacement: str, sentence: str) -> str:
        began_s = time.process_time()
        try:
            return str(pattern.sub(replacement, sentence, timeout=self._left_s))
        except TimeoutError:
            self._left_s = 0.0
            log.warning(
                "text.replacements: the rule %.80r takes too long; the rest of this text is spoken without rules",
                pattern.pattern,
            )
            return sentence
        finally:
            self._left_s -= time.process_time() - began_s
