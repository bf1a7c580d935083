"""Every fault of `tests.support.faults` with its times, as the table in `docs/faults.md`.

    python -m tests.benchmarks.fault_table

The times are measured once, on one machine. `tests/daemon/test_faults.py` checks the outcomes.
"""

from __future__ import annotations

import argparse
import asyncio
import platform

from tests.support.faults import OTHER_FAULTS, WORKER_FAULTS, Result, suffer

HEARTBEAT_TIMEOUT_S = 5
HEADER = """| fault | its client | told after | next audio after | the natural voice after | left behind |
|---|---|---|---|---|---|"""


def row(result: Result) -> str:
    """One line of the table."""
    name = f"{result.fault}, no embedded voice" if result.alone else result.fault
    left = ", ".join(f"{count} {kind}" for kind, count in result.leaks.items()) or "nothing"
    times = (result.told.after_s, result.served_s, result.natural_s)
    return f"| {name} | {result.told.what} | " + " | ".join(f"{time:.2f} s" for time in times) + f" | {left} |"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="faults whose name holds this")
    wanted = parser.parse_args().only or ""
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n\n{HEADER}")
    for name in (*WORKER_FAULTS, *OTHER_FAULTS):
        if wanted in name:
            for alone in (False, True) if name in WORKER_FAULTS else (False,):
                print(row(await suffer(name, alone, HEARTBEAT_TIMEOUT_S)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
