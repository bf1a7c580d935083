"""A start's kernels are compiled before the first is launched, and are exactly those that it launches."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.kernels.launch import enqueue, nothing_runs

with_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton (make kernels)")


class Kernel:
    """What a JITFunction is for `enqueue`."""

    def __init__(self) -> None:
        self.compiled: list[tuple[object, ...]] = []
        self.launched: list[tuple[object, ...]] = []

    def warmup(self, *arguments: object, grid: tuple[int, ...], **constants: object) -> None:
        self.compiled.append((grid, *arguments, constants))

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **constants: self.launched.append((grid, *arguments, constants))


def test_enqueue_compiles_without_launching_during_dry_run() -> None:
    kernel = Kernel()
    with nothing_runs():
        enqueue(kernel, (2,), 5, WIDTH=3)
        assert kernel.compiled == [((2,), 5, {"WIDTH": 3})]
        assert kernel.launched == []
    with pytest.raises(ZeroDivisionError), nothing_runs():
        raise ZeroDivisionError
    enqueue(kernel, (2,), 5, WIDTH=3)
    assert kernel.launched == [((2,), 5, {"WIDTH": 3})]
    assert len(kernel.compiled) == 1


def test_dry_run_compiles_each_specialization_once() -> None:
    kernel, other, row = Kernel(), Kernel(), torch.zeros(32)
    different = [(row, 1), (row[1:], 1), (row.half(), 1), (row, 2), (None, 1)]
    with nothing_runs():
        for _ in range(2):
            for tensor, number in different:
                enqueue(kernel, (1,), tensor, number, WIDTH=1)
            enqueue(kernel, (1,), row, 1, WIDTH=2)
            enqueue(kernel, (1,), row[4:], 1, WIDTH=1)  # aligned as the first
            enqueue(other, (1,), row, 1, WIDTH=1)
    assert len(kernel.compiled) == len(different) + 1
    assert len(other.compiled) == 1


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a first start and a second one did."""
    cache = str(tmp_path_factory.mktemp("triton"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON")}
    return [
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "tests.engine.kernels.compiled_ahead"],
                cwd=Path(__file__).parents[3],
                env={**environment, "TRITON_CACHE_DIR": cache},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        )
        for _ in range(2)
    ]


@pytest.mark.kernels
@with_triton
class TestStart:
    def test_precompile_compiles_exactly_the_launched_kernels(self, starts: list[dict[str, Any]]) -> None:
        first, _ = starts
        assert len(first["ahead"]["compiled"]) > 50
        assert first["ahead"]["loaded"] == []
        assert first["ahead"]["launches"] == 0
        assert first["from disk"]["loaded"] == first["ahead"]["compiled"]
        assert first["from disk"]["compiled"] == []
        assert first["from disk"]["launches"] == first["then"]["launches"] > 500
        assert first["then"]["compiled"] == first["then"]["loaded"] == []

    def test_precompile_builds_each_launcher_once(self, starts: list[dict[str, Any]]) -> None:
        first, _ = starts
        made = first["ahead"]["launchers"]
        assert len(set(made)) == len(made) > 10
        assert set(made) == set(first["from disk"]["launchers"])

    def test_second_start_loads_every_kernel_from_disk(self, starts: list[dict[str, Any]]) -> None:
        first, second = starts
        assert second["ahead"]["loaded"] == first["ahead"]["compiled"]
        assert second["ahead"]["compiled"] == []

    def test_precompile_continues_after_a_broken_kernel_or_step(self, starts: list[dict[str, Any]]) -> None:
        first, _ = starts
        (kernel,), (step,) = first["warnings"]
        assert f"1 of {len(first['ahead']['compiled']) + 1} kernels could not be compiled ahead" in kernel
        assert "ValueError: no such step" in step
        assert first["despite trouble"]["loaded"] == first["ahead"]["compiled"]
        assert first["after trouble"]["launches"] == first["then"]["launches"]
        assert first["after trouble"]["loaded"] == first["after trouble"]["compiled"] == []


@pytest.mark.kernels
@with_triton
@pytest.mark.parametrize("capability", [86, 89, 120], ids=["RTX 30", "RTX 40", "RTX 50"])
def test_kernels_fit_shared_memory_of_consumer_gpus(capability: int, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON")}
    finished = subprocess.run(
        [sys.executable, "-m", "tests.engine.kernels.shared_memory", str(capability)],
        cwd=Path(__file__).parents[3],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    most = json.loads(finished.stdout)
    assert len(most) > 10
    assert max(most.values()) <= 99 * 1024, most
