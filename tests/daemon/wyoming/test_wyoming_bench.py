"""A client that is not ours: the protocol author's benchmark runs to its end in both modes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import PATIENCE_S, daemon

PROGRAM = shutil.which("wyoming-bench", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(PROGRAM is None, reason="wyoming-bench is not installed")
def test_wyoming_bench_completes_in_both_modes():
    with daemon() as process:
        command = [PROGRAM, "tts", "--rounds", "1", "--verbose", f"127.0.0.1:{process.port}"]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert finished.returncode == 0, finished.stderr
    assert "FAIL" not in finished.stdout
    assert "NOT SUPPORTED" not in finished.stdout
    for mode in ("streaming", "non_streaming"):
        assert f"[{mode}] r0" in finished.stdout, finished.stdout
