"""Log to stderr as plain text, for systemd's journal, or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from .config.schema import Log

OURS = ("qwentts_daemon", "engine")
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.NOTSET: 7}
"""The syslog(3) priority of each level; a level in between takes that of the next lower one."""


class JournalFormatter(logging.Formatter):
    """Prefix each line with its priority, see sd-daemon(3), and omit the time, which the journal adds."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return with_priority(record.levelno, super().format(record))


class JsonFormatter(logging.Formatter):
    """Format each record as one line with a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def with_priority(level: int, text: str) -> str:
    """Prefix every line with its syslog priority for the journal."""
    priority = next(number for lowest, number in PRIORITIES.items() if level >= lowest)
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def goes_to_journal(environment: Mapping[str, str], stream: TextIO) -> bool:
    """Whether `stream` is connected to the journal: JOURNAL_STREAM holds the device and inode of that stream."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not backed by a file
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def formatter(wanted: str, environment: Mapping[str, str]) -> logging.Formatter:
    """Return the formatter for `log.format`; it can be pickled, so that workers use the same one."""
    if wanted == "json":
        return JsonFormatter()
    if wanted == "journal" or (wanted == "auto" and goes_to_journal(environment, sys.stderr)):
        return JournalFormatter()
    return logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def set_up(config: Log, environment: Mapping[str, str]) -> None:
    """Log to stderr; libraries log from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(config.format, environment))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    set_level(config.level)


def set_level(level: str) -> None:
    """Set the level of this program's own loggers."""
    for name in OURS:
        logging.getLogger(name).setLevel(level)
