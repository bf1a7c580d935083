"""What a running daemon has loaded; which module may import which is held by import-linter (pyproject.toml)."""

import subprocess
import sys

import pytest

from tests.support.harness import ROOT

HEAVY = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub", "soundfile", "triton", "flash_attn"}
LATE = {"numpy", "soxr", "aiohttp"}  # loaded when a target needs them


@pytest.mark.parametrize(
    ("target", "loaded"),
    [
        ("CommandTarget(type='command', command=('cat',))", set()),
        ("WyomingTarget(type='wyoming', uri='tcp://host:1')", set()),
        ("WavTarget(type='wav', directory='/srv')", set()),
        ("SnapcastTarget(type='snapcast', fifo='/run/x')", {"numpy", "soxr"}),
    ],
)
def test_make_sink_loads_only_what_its_target_needs(target, loaded):
    code = f"""
import sys, qwentts_daemon.cli.app
from qwentts_daemon.sinks import Services, make_sink
from qwentts_daemon.config.target_schema import *
assert not {LATE | HEAVY} & sys.modules.keys()
make_sink("a", {target}, Services())
print(*{LATE | HEAVY} & sys.modules.keys())"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split()) == loaded
