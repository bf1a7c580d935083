"""Runs the daemon with another class as its Qwen3 engine: `python -m tests.daemon_with CLASS ARGUMENT…`."""

import sys

from engine import choice

if __name__ == "__main__":
    from qwentts_daemon.cli import run_cli

    name = sys.argv.pop(1)  # a class of tests.fakes, or MODULE:CLASS of another file of tests
    choice.BACKENDS["qwen3"] = f"tests.{name}" if ":" in name else f"tests.fakes:{name}"
    run_cli()
