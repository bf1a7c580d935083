"""Who may import whom: the picture in the README, held by a test."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DAEMON, ENGINE = ROOT / "qwentts_daemon", ROOT / "engine"
HEAVY = {"torch", "transformers", "numpy", "safetensors", "huggingface_hub", "soundfile", "triton", "flash_attn"}
LATE = {"numpy", "soxr", "aiohttp"}  # loaded when a target needs them
TORCH_FREE = [
    "messages", "settings", "channel", "choice", "worker", "model_card", "roster", "voice_folder", "languages",
    "model/config", "footprint", "memory", "emission", "optimizations", "prefixes", "prompt", "sequence", "blocks",
    "paging",
    "backends/__init__", "backends/qwen3", "bench/__init__", "bench/arrivals", "bench/figures", "bench/floor",
    "bench/load", "bench/load_client", "bench/report", "file_check",
]  # fmt: skip
DOORS = {"worker_client", "engine_setup", "model"}
FRONT_ENDS = {"wyoming_server", "listeners", "zeroconf_advert", "announcing", "http_server"}


def imports(path):
    """Every module a file imports anywhere, relative ones as `.name`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from ([f".{node.module}"] if node.module else (f".{alias.name}" for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def top_level(names):
    return {name.partition(".")[0] for name in names if not name.startswith(".")}


@pytest.mark.parametrize("path", sorted(DAEMON.rglob("*.py")), ids=lambda path: path.stem)
def test_only_the_doors_import_the_engine(path):
    names = top_level(imports(path))
    assert "engine" not in names or path.stem in DOORS
    assert not names & (HEAVY - {"numpy"} if path.stem == "resampling" else HEAVY)


@pytest.mark.parametrize(
    ("target", "loaded"),
    [
        ("CommandTarget(type='command', command=('cat',))", set()),
        ("WyomingTarget(type='wyoming', uri='tcp://host:1')", set()),
        ("WavTarget(type='wav', directory='/srv')", set()),
        ("SnapcastTarget(type='snapcast', fifo='/run/x')", {"numpy", "soxr"}),
    ],
)
def test_a_daemon_loads_only_what_its_targets_need(target, loaded):
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


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda path: path.stem)
def test_the_engine_never_imports_the_daemon_and_itself_relatively(path):
    assert not top_level(imports(path)) & {"qwentts_daemon", "engine", "tests"}


@pytest.mark.parametrize("name", TORCH_FREE)
def test_the_border_of_the_engine_is_light(name):
    assert not top_level(imports(ENGINE / f"{name}.py")) & HEAVY


@pytest.mark.parametrize("name", ["messages", "settings"])
def test_messages_and_settings_import_nothing_of_ours(name):
    assert not [module for module in imports(ENGINE / f"{name}.py") if module.startswith(".")]


@pytest.mark.parametrize("path", sorted(DAEMON.glob("*.py")), ids=lambda path: path.stem)
def test_front_ends_are_used_by_the_root_only(path):
    used = {name.removeprefix(".") for name in imports(path)} & FRONT_ENDS
    assert not used or path.stem in ("daemon", "listeners")
