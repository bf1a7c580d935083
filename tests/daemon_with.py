"""Runs the daemon with another class as its Qwen3 engine: `python -m tests.daemon_with CLASS ARGUMENT…`."""

import sys

from engine import choice

if __name__ == "__main__":
    from qwentts_daemon.cli import run_cli

    choice.BACKENDS["qwen3"] = f"tests.fakes:{sys.argv.pop(1)}"
    run_cli()
