"""Names as people write them: suggestions for error messages, and comparison regardless of case."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

LISTED = 40
"""The maximum number of known names in a message."""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return `; did you mean …?`, or the known names if there is no close match; empty without known names."""
    if close := difflib.get_close_matches(name, list(known), n=1, cutoff=0.5):
        return f"; did you mean {close[0]}?"
    if not known:
        return ""
    return f"; known are {', '.join(sorted(known)[:LISTED])}{', …' if len(known) > LISTED else ''}"


def fold_name(name: str) -> str:
    """Return a name for comparison: case does not matter, nor do blanks and hyphens in the place of `_`."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())
