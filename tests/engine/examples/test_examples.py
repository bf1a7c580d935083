"""Every example runs on a tiny checkpoint, and so do the streaming fork's own, with only the import line changed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import engine
from engine.examples import batch, first_chunk, paged, profile, stream
from engine.paged.runner import PagedRunner
from tests.engine.support.random_inputs import sound
from tests.engine.support.tiny_models import tiny_directory

EXAMPLES = Path(__file__).with_name("fork_examples.md")
ON_CPU = ("--device", "cpu", "--max-frames", "20", "--seed", "4")


class Speakers:
    """A sound card that remembers."""

    def __init__(self, **_: object) -> None:
        self.heard: list[np.ndarray] = []

    def __enter__(self) -> Speakers:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, wave: np.ndarray) -> None:
        self.heard.append(wave)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    path = tmp_path / "reference.wav"
    soundfile.write(path, sound(1.0, 1), 24_000)
    return path


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The sounddevice package, without a sound card."""
    module = ModuleType("sounddevice")
    speakers = Speakers()
    module.OutputStream = lambda **_: speakers  # type: ignore[attr-defined]
    module.heard = speakers.heard  # type: ignore[attr-defined]
    module.play = lambda wave, rate: speakers.write(wave)  # type: ignore[attr-defined]
    module.wait = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def samples(path: Path) -> int:
    wave, rate = soundfile.read(path)
    assert rate == 24_000
    return len(wave)


@pytest.mark.parametrize("kind", ["base", "custom_voice", "voice_design"])
def test_stream_example_writes_file(
    kind: str, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "speech.wav"
    heard = ("--ref-audio", str(reference), "--ref-text", "the door is open") if kind == "base" else ()
    stream.main([str(tiny_directory(kind)), *ON_CPU, "--output", str(output), *heard])
    assert samples(output) == 20 * 1920
    assert "1.60 s of audio" in capsys.readouterr().out


def test_stream_example_plays_audio(card: Any, reference: Path) -> None:
    stream.main([str(tiny_directory()), *ON_CPU, "--ref-audio", str(reference)])
    assert sum(map(len, card.heard)) == 20 * 1920
    assert [len(wave) // 1920 for wave in card.heard] == [1] * 6 + [12, 2]


def test_stream_example_names_missing_player_or_recording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SystemExit, match="install sounddevice"):
        stream.main([str(tiny_directory("custom_voice")), *ON_CPU])
    with pytest.raises(SystemExit, match="--ref-audio FILE"):
        stream.main([str(tiny_directory()), *ON_CPU])
    stream.main([str(tiny_directory("custom_voice")), *ON_CPU, "--text", " "])
    assert "the text is empty" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["base", "custom_voice", "voice_design"])
def test_batch_example_writes_files(kind: str, reference: Path, tmp_path: Path) -> None:
    heard = ("--ref-audio", str(reference)) if kind == "base" else ()
    batch.main([str(tiny_directory(kind)), str(tmp_path / "out"), *ON_CPU, *heard, "--texts", "One.", " ", "Two!"])
    assert [samples(tmp_path / "out" / f"speech_{item}.wav") for item in range(3)] == [20 * 1920, 0, 20 * 1920]


def test_paged_example_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ("--texts", "One.", " ", "Two!")
    paged.main([str(tiny_directory("custom_voice")), str(tmp_path / "out"), *ON_CPU, *texts])
    assert [samples(tmp_path / "out" / f"speech_{item}.wav") for item in range(3)] == [20 * 1920, 0, 20 * 1920]
    assert "3 streams at once: 3.20 s of audio" in capsys.readouterr().out


def test_profile_example_prints_table_and_writes_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.json"
    frames = ("--device", "cpu", "--max-frames", "1")  # each takes some thousand events
    profile.main([str(tiny_directory("custom_voice")), *frames, "--repeats", "2", "--trace", str(trace)])
    out = capsys.readouterr().out
    assert re.search(r"^\| `generate_fast` \| [\d.]+ \| [\d.]+ \| 1\.00x \| \d+ \|$", out, re.MULTILINE)
    assert "CUDA graph" not in out
    assert "Self CPU" in out
    assert trace.stat().st_size > 1000


def test_first_chunk_example_prints_a_row_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    first_chunk.main([str(tiny_directory("custom_voice")), *ON_CPU, "--rounds", "1"])
    rows = [row for row in capsys.readouterr().out.splitlines() if "ms" in row]
    assert [row.split(" | ")[1] for row in rows] == ["12", "12", "12", "5, then 12", "1, then 12"]
    assert all(re.search(r"\| [\d.]+ ms \| [\d.]+x \| [\d.]+ s \| [\d.]+x \| [\d.]+ \|$", row) for row in rows)


def test_examples_run_as_modules() -> None:
    command = [sys.executable, "-m", "engine.examples.batch", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert "--ref-audio" in finished.stdout, finished.stderr


# --- the streaming fork's own -----------------------------------------------------------------------------------


def run_fork_examples(titles: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """Run examples of the streaming fork one after another, unchanged but for the import line.

    The model that they name is a tiny one, and `cuda` the CPU.
    """
    real = engine.Qwen3TTSModel.from_pretrained

    def tiny(name: str, torch_dtype: torch.dtype, device_map: str) -> Any:
        assert (name.startswith("Qwen/Qwen3-TTS-12Hz"), torch_dtype, device_map) == (True, torch.bfloat16, "cuda")
        return real(str(tiny_directory(eos_gain=2.0)), torch_dtype=torch_dtype, device_map="cpu")

    monkeypatch.setattr(engine.Qwen3TTSModel, "from_pretrained", tiny)
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    names: dict[str, Any] = {"torch": torch}
    for title in titles:
        found = re.search(rf"## {title}\n\n```python\n(.*?)```", EXAMPLES.read_text(), re.DOTALL)
        assert found
        exec(compile(found[1].replace("from qwen_tts import", "from engine import"), title, "exec"), names)
    return names


@pytest.mark.usefixtures("reference")
def test_fork_examples_stream(card: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = run_fork_examples(["Streaming", "Batch streaming"], monkeypatch, tmp_path)
    assert names["sr"] == 24_000
    assert sum(map(len, card.heard)) > 0
    assert sum(map(len, card.heard)) % 1920 == 0
    assert [samples(tmp_path / f"output_{item}.wav") > 0 for item in range(3)] == [True] * 3


@pytest.mark.usefixtures("reference")
def test_fork_examples_use_the_paged_engine(card: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    used: list[int] = []
    real = PagedRunner.advance

    def watched(self: PagedRunner, *given: Any) -> Any:
        used.append(self.paging.pool.used)
        return real(self, *given)

    monkeypatch.setattr(PagedRunner, "advance", watched)
    names = run_fork_examples(["Streaming", "Paged attention engine"], monkeypatch, tmp_path)
    assert max(used) > 0
    assert sum(map(len, card.heard)) % 1920 == 0
    assert names["sr"] == 24_000


def test_fork_examples_enable_optimizations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = run_fork_examples(["Optimisations"], monkeypatch, tmp_path)["model"]
    assert model.optimizations.compile_mode == "reduce-overhead"
