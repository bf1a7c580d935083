"""README, CONTRIBUTING, CHANGELOG and docs/ as the tests of the documentation read them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def read(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    """Return the path of a page below the repository, for the ids of tests."""
    return str(page.relative_to(ROOT))


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language, without their indentation."""
    return [textwrap.dedent(block) for _, found, block in FENCE.findall(read(page)) if found == language]


def prose(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return FENCE.sub("", read(page))
