"""Log lines on stderr."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def set_up(level: str) -> None:
    """Send every logger's lines to stderr; libraries speak from WARNING on."""
    logging.basicConfig(level=logging.WARNING, format=FORMAT, stream=sys.stderr)
    logging.getLogger("qwentts_daemon").setLevel(level)
    logging.getLogger("engine").setLevel(level)
