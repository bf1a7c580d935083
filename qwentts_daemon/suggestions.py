"""Suggest known names in error messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection

LISTED = 40
"""Known names that a message lists at most."""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return `; did you mean …?`, or the known names if none is close; empty without known names."""
    if close := difflib.get_close_matches(name, list(known), n=1, cutoff=0.5):
        return f"; did you mean {close[0]}?"
    if not known:
        return ""
    return f"; known are {', '.join(sorted(known)[:LISTED])}{', …' if len(known) > LISTED else ''}"
