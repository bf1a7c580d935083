"""The documentation agrees with the code: links, commands, YAML samples, generated pages, the length of the README."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from qwentts_daemon.cli import app as cli
from qwentts_daemon.config.loader import load
from qwentts_daemon.config.schema import Config
from tests.docs.pages import PAGES, ROOT, code_blocks, name, prose, read

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MAX_README_LINES, MAX_SENTENCE_WORDS = 200, 40

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


# --- links ------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(prose(ROOT / "README.md"))}
    assert [name(page) for page in PAGES if page not in linked and page.name != "README.md"] == []


# --- commands ---------------------------------------------------------------------------------------------------


@cache
def options_by_command() -> dict[str, set[str]]:
    """Return the options of each command of qwentts-daemon."""
    group: Any = typer.main.get_command(cli.app)
    return {
        command: {"--help", *(option for each in found.params for option in (*each.opts, *each.secondary_opts))}
        for command, found in group.commands.items()
    }


@cache
def makefile() -> tuple[set[str], set[str]]:
    """Return the targets and the variables of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    return set(phony.split()), {*re.findall(r"^(\w+) \??:?=", text, re.MULTILINE), "PARITY_SEED"}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in the `sh` blocks and in the inline code of a page."""
    lines = [line for block in code_blocks(page, "sh") for line in block.splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", prose(page))]:
        if re.search(r"(^|[/ ])(qwentts-daemon|make) [a-z-]", line):
            yield shlex.split(line.replace("…", ""), comments=True)


def fault(words: list[str]) -> str | None:
    """Return what is wrong with a command; None if nothing is, or if it runs neither make nor qwentts-daemon."""
    program = next((index for index, word in enumerate(words) if Path(word).name in ("qwentts-daemon", "make")), None)
    if program is None or program + 1 >= len(words) or (program and words[0] not in ("sudo", words[program])):
        return None
    arguments = words[program + 1 :]
    if Path(words[program]).name == "make":
        targets, variables = makefile()
        known = targets | variables
        return next((f"make {word}" for word in arguments if word.partition("=")[0] not in known), None)
    command = arguments[0] if not arguments[0].startswith("-") else "run"
    if command not in options_by_command():
        return f"qwentts-daemon {command}"
    used = [word for word in arguments if word.startswith("-") and word not in ("-", "--version")]
    return next((f"{command} {word}" for word in used if word not in options_by_command()[command]), None)


@every_page
def test_commands_exist(page: Path) -> None:
    assert [found for words in commands(page) if (found := fault(words))] == []


@pytest.mark.parametrize("line", ["make dmo", "sudo qwentts-daemon install-service --frob", "qwentts-daemon speak x"])
def test_an_unknown_command_is_a_fault(line: str) -> None:
    assert fault(line.split())


# --- configuration ----------------------------------------------------------------------------------------------


def yaml_samples() -> list[Any]:
    """Return every YAML sample with its page, for `parametrize`."""
    return [
        pytest.param(sample, id=f"{name(page)}-{number}")
        for page in PAGES
        for number, sample in enumerate(code_blocks(page, "yaml"), 1)
    ]


@pytest.mark.parametrize("sample", yaml_samples())
def test_yaml_samples_are_valid(sample: str, tmp_path: Path) -> None:
    """A sample is a configuration, or an action or automation of Home Assistant."""
    keys = set(yaml.safe_load(sample))
    if keys <= {"action", "target", "data"} or keys == {"triggers", "conditions", "actions"}:
        return
    path = tmp_path / "config.yaml"
    path.write_text(sample, encoding="utf-8")
    assert load(path, {}).model_fields_set == keys


def test_keys_in_prose_exist() -> None:
    sections = {section: set(type(getattr(Config(), section)).model_fields) for section in Config.model_fields}
    pattern = re.compile(rf"`({'|'.join(sections)})\.([a-z_]+)[:`]")
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which names former keys
    found = {match for page in pages for match in pattern.findall(prose(page))}
    unknown = [f"{section}.{key}" for section, key in found if key not in sections[section] and key != "py"]
    assert [each for each in unknown if not (ROOT / each.replace(".", "/")).exists()] == []


# --- pages ------------------------------------------------------------------------------------------------------


def generator() -> ModuleType:
    """Return .ci/docs.py as a module."""
    spec = importlib.util.spec_from_file_location("docs", ROOT / ".ci/docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current() -> None:
    stale = [path for path, page in generator().pages().items() if read(ROOT / path) != page]
    assert stale == [], "run .venv/bin/python .ci/docs.py"


@every_page
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:engine|qwentts_daemon|tests|systemd|docs|\.ci)/[\w./-]+)`", prose(page))
    assert [path for path in named if not ((ROOT / path).exists() or (ROOT / f"{path}.py").exists())] == []


def test_named_tests_exist() -> None:
    rows = re.findall(r"^\|.*\| `([\w/]+\.py)`: (.*) \|$", read(ROOT / "docs/security.md"), re.MULTILINE)
    assert len(rows) > 20
    for file, tests in rows:
        source = read(ROOT / file)
        assert [test for test in re.findall(r"`(\w+)`", tests) if f"def {test}(" not in source] == []


def test_readme_is_short() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= MAX_README_LINES


def test_sentences_of_the_readme_are_short() -> None:
    text = re.sub(r"^(\||#|\d\.|- ).*?$", lambda line: f"\n\n{line[0]}", prose(ROOT / "README.md"), flags=re.MULTILINE)
    text = LINK.sub("link", text)
    sentences = [each for part in re.split(r"\n\s*\n|\|", text) for each in re.split(r"(?<=[.!?:])\s", part)]
    assert [each for each in sentences if len(each.split()) > MAX_SENTENCE_WORDS] == []
