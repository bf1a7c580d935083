"""Count the words that give translated English away, in docstrings, comments, messages and docs; `make lint` runs it.

Each group may occur 0.3 times per 1,000 words at most. `--list` prints every occurrence. Text in backticks is code.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MOST_PER_1000 = 0.3
GROUPS = {
    "nobody, whoever, somebody, everybody": r"nobody|whoever|somebody|everybody",
    "say, tell": r"says?|said|saying|tells?|told",
    "go, come": r"goes|comes|came",
    "hear": r"hears?|heard",
    "is no, has no, none": r"(?:is|are|has|have|was) no(?! longer)(?= \w)|(?-i:none)",
    "give": r"gives?|gave",
    "lie, stand": r"lies?|stands?",
    "so many, so long": r"so (?:many|long)(?! as)",
    "shall": r"shall",
}
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each piece of prose in a Python, Markdown or YAML file."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        prose = CODE.sub(lambda code: "\n" * code[0].count("\n"), source)
        yield from enumerate(prose.splitlines(), 1)
        return
    if path.suffix in {".yaml", ".yml"}:
        yield from ((n, line.partition("#")[2]) for n, line in enumerate(source.splitlines(), 1))
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) >= 3:
            yield node.lineno, node.value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print every occurrence")
    parser.add_argument("paths", nargs="*", help="files or folders (default: all but the tests)")
    options = parser.parse_args()
    listed = subprocess.run(["git", "ls-files", "*.py", "*.md", "*.yaml"], capture_output=True, text=True, check=True)
    chosen = tuple(options.paths) or ("engine", "qwentts_daemon", "docs", "README", "CONTRIBUTING", "config", ".ci")
    words = 0
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in filter(lambda name: name.startswith(chosen), listed.stdout.split()):
        for line, text in texts(Path(name)):
            prose = CODE.sub(" ", text)
            words += len(re.findall(r"[A-Za-z]+(?:'\w+)?", prose))
            for group, pattern in GROUPS.items():
                hits = re.finditer(rf"\b(?:{pattern})\b", prose, re.IGNORECASE)
                found[group] += [
                    f"{name}:{line}: {' '.join(prose[max(0, h.start() - 40) : h.end() + 40].split())}" for h in hits
                ]
    bad = False
    for group, places in found.items():
        rate = 1000 * len(places) / max(words, 1)
        bad |= rate > MOST_PER_1000
        print(f"{rate:5.2f} per 1,000 words  {len(places):4}  {group}")
        if options.list:
            print(*(f"        {place}" for place in places), sep="\n")
    print(f"{words} words")
    if bad:
        sys.exit(f"above {MOST_PER_1000} per 1,000 words: rewrite in plain technical English (--list shows where)")


if __name__ == "__main__":
    main()
