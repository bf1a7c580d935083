"""Runs the daemon with another class as its Qwen3 engine: `python -m tests.support.daemon_with CLASS ARGUMENT…`.

CLASS is a class of tests.support.fakes, MODULE:CLASS of any other module, or `none` for the real engine.
SIGUSR2 makes the daemon print how many tasks it has.
"""

import asyncio
import os
import signal
import sys

from engine.worker.backends import selection

if __name__ == "__main__":
    from qwentts_daemon.cli.app import run_cli

    def say_tasks(*_: object) -> None:
        os.write(2, f"tasks: {len(asyncio.all_tasks(asyncio.get_running_loop()))}\n".encode())

    signal.signal(signal.SIGUSR2, say_tasks)
    name = sys.argv.pop(1)
    if name != "none":
        selection.BACKENDS["qwen3"] = name if ":" in name else f"tests.support.fakes:{name}"
    run_cli()
