"""Log lines for a person, for the journal and for a program, from the daemon and from its workers."""

import json
import logging
import os
import subprocess
import sys

import pytest

from qwentts_daemon.logs import JournalFormatter, JsonFormatter
from tests.support.harness import PATIENCE_S, ROOT, speak, started

LOG_TO_PIPE = """
import os, sys
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
os.execv(sys.argv[1], sys.argv[1:])
"""
TO_JOURNAL = [sys.executable, "-c", LOG_TO_PIPE]


def lines(*settings, through=(), **environment):
    """Return the log of a daemon whose worker logs an error."""
    with started("engine.fallback=false", *settings, fake="Faulty", through=through, **environment) as process:
        process.wait_for("cannot be loaded: KeyError")
        assert process.stop() == 0
    return process.lines[:-1]


def test_journal_lines_have_priority_and_no_time():
    log = lines(through=TO_JOURNAL)
    assert all(line[0] == "<" and line[1] in "34567" and line[2] == ">" for line in log)
    assert any(line.startswith("<6>qwentts_daemon.wyoming.listeners: listening on tcp://") for line in log)
    assert any(
        line.startswith("<3>engine.worker.process: qwentts-qwen3 cannot be loaded") for line in log
    )  # from the worker
    assert "<3>KeyError: 'weights'" in log  # the end of its traceback
    assert any(line.startswith("<3>qwentts_daemon.workers.client: qwentts-qwen3 cannot be loaded") for line in log)


@pytest.mark.parametrize("environment", [{}, {"JOURNAL_STREAM": "8:1"}], ids=["none", "another stream"])
def test_plain_lines_have_time(environment):
    log = lines(**environment)
    assert any("INFO    qwentts_daemon.wyoming.listeners: listening on" in line and line[:2] == "20" for line in log)
    assert any(
        "ERROR   engine.worker.process: qwentts-qwen3 cannot be loaded" in line and line[:2] == "20" for line in log
    )


def test_json_format_logs_one_object_per_line():
    log = [json.loads(line) for line in lines("log.format=json", through=TO_JOURNAL)]
    assert {entry["logger"] for entry in log} >= {"qwentts_daemon.wyoming.listeners", "engine.worker.process"}
    assert any(entry.get("exception", "").endswith("KeyError: 'weights'") for entry in log)
    assert all(entry["time"].endswith("+00:00") and entry["level"] and entry["process"] for entry in log)


def test_journal_format_can_be_configured():
    assert all(line.startswith("<") for line in lines("log.format=journal"))


def test_journal_prefix_is_on_startup_errors():
    command = [*TO_JOURNAL, sys.executable, "-m", "qwentts_daemon", "--set", "log.fromat=json"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert finished.returncode == os.EX_CONFIG
    assert finished.stderr.startswith("<3>qwentts-daemon: configuration: log.fromat: unknown key; did you mean format?")


async def test_spoken_text_is_not_logged_at_info():
    with started(fake="ToneBackend", debug=False, through=TO_JOURNAL) as process:
        process.wait_for("is ready: tones")
        await speak(process, "xylophone")
        process.wait_for("done: job")
        assert process.stop() == 0
    assert not [line for line in process.lines if "xylophone" in line]


@pytest.mark.parametrize(("level", "priority"), [(5, 7), (10, 7), (20, 6), (25, 6), (30, 4), (40, 3), (50, 2), (60, 2)])
def test_journal_formatter_maps_level_to_priority(level, priority):
    record = logging.LogRecord("a.b", level, "", 0, "two\nlines of %s", ("text",), None)
    assert JournalFormatter().format(record) == f"<{priority}>a.b: two\n<{priority}>lines of text"


def test_json_formatter_escapes_line_breaks():
    record = logging.LogRecord("a.b", logging.INFO, "", 0, "zwei\nZeilen für %s", ("alle",), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "zwei\nZeilen für alle"
