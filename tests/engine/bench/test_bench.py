"""The benchmarks: their arithmetic against known figures, and that each runs to its end on a tiny checkpoint."""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from itertools import pairwise
from pathlib import Path

import pytest
from wyoming.error import Error
from wyoming.event import async_read_event, async_write_event

from engine.bench import latency, load, profile_talker
from engine.bench.arrivals import LONGEST, SHORTEST, Arrival, poisson
from engine.bench.load_client import listen_all, onset_s, warm_up
from engine.bench.metrics import RequestTrace, load_figures, most_at_once, percentile, spread
from engine.bench.report import Setting, json_line, peer_lines, shown, text_line
from engine.bench.roofline import Load, compute_floor_s, frame_bytes, frame_macs
from engine.model.config import ModelConfig
from engine.testing.tiny_checkpoint import full_config
from tests.engine.support.tiny_models import tiny_directory
from tests.support.harness import daemon

SETTING = Setting("python -m x", "H200", "2.11", "1b7", 8, 150)
ON_CPU = ("--device", "cpu", "--json")


@pytest.fixture(params=["1b7", "0b6"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> ModelConfig:
    return full_config(tmp_path, request.param)


def run(main, capsys, monkeypatch, *words: object) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
    main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


# --- floor -------------------------------------------------------------------------------------------------------


def test_frame_bytes_match_the_published_sizes(config: ModelConfig) -> None:
    moved = frame_bytes(config, Load())
    small = config.model_size == "0b6"
    assert moved["talker"] == pytest.approx(0.887e9 if small else 2.831e9, rel=1e-3)
    assert moved["code_predictor"] == pytest.approx(2.423e9 if small else 2.427e9, rel=1e-3)
    assert moved["codec"] == pytest.approx(0.211e9, rel=5e-3)
    assert moved["kv"] == pytest.approx(22.9e6, rel=3e-3)
    assert moved["codec_state"] < 5.3e6


def test_memory_and_compute_floor_on_an_h200(config: ModelConfig) -> None:
    known = {"1b7": {1: 1.27, 8: 1.33, 32: 1.50}, "0b6": {1: 0.82, 8: 0.88, 32: 1.05}}[config.model_size]
    for batch, floor_ms in known.items():
        assert sum(frame_bytes(config, Load(batch=batch)).values()) / 4.3e12 * 1000 == pytest.approx(floor_ms, rel=0.04)
    compute_ms = {"1b7": 0.41, "0b6": 0.33}[config.model_size]
    assert compute_floor_s(config, 32, 790e12) * 1000 == pytest.approx(compute_ms, rel=0.04)
    assert frame_macs(config)["codec"] == pytest.approx(2.48e9, rel=0.01)


def test_frame_bytes_shrink_with_larger_chunks_and_smaller_types(config: ModelConfig) -> None:
    one, eight = (frame_bytes(config, Load(chunk_frames=frames)) for frames in (1, 8))
    assert eight["codec"] == one["codec"] / 8
    assert eight["talker"] == one["talker"]
    assert frame_bytes(config, Load(codec_bytes=4))["codec"] == 2 * one["codec"]


# --- playback ----------------------------------------------------------------------------------------------------


def test_trace_without_late_chunks_has_no_underrun() -> None:
    take = RequestTrace(began_s=10.0)
    take.receive(10.02, 0.08, None)
    take.receive(10.05, 0.16, 0.04)
    take.receive(10.26, 0.08, 0.0)  # the very moment at which it is needed
    assert (take.underruns, take.frames, take.chunks) == (0, 4, 3)
    assert take.first_pcm_ms == pytest.approx(20)
    assert take.first_audible_ms == pytest.approx(140)  # second chunk, which waits for the first to be played
    assert take.total_s == pytest.approx(0.26)
    assert take.steady_ms_per_frame == pytest.approx(80)


def test_trace_counts_late_chunk_as_underrun_and_delays_playback() -> None:
    take = RequestTrace(began_s=0.0)
    take.receive(1.0, 0.08, 0.0)
    take.receive(1.2, 0.08, 0.0)
    take.receive(1.27, 0.08, 0.0)
    take.receive(1.5, 0.08, 0.0)
    assert take.underruns == 2
    assert take.late_s == pytest.approx(1.5 - 1.36)
    assert take.first_audible_ms == pytest.approx(1000)


def test_trace_without_audio_has_no_times() -> None:
    take = RequestTrace(began_s=0.0)
    assert (take.first_pcm_ms, take.first_audible_ms, take.steady_ms_per_frame) == (None, None, None)


def test_percentile_returns_a_measured_value() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0, 0.5, 0.95, 1)] == [1, 50, 95, 100]
    assert percentile([7.0], 0.95) == 7
    assert spread("x", [None, 3.0]) == {"x_p50": 3.0, "x_p95": 3.0}
    assert spread("x", [None]) == {"x_p50": None, "x_p95": None}


def test_most_at_once_counts_overlapping_intervals() -> None:
    assert most_at_once([(0, 2), (1, 3), (2, 4)]) == 2
    assert most_at_once([]) == 0


def test_load_figures_count_served_refused_and_failed_requests() -> None:
    takes = [RequestTrace(0.0), RequestTrace(1.0)]
    takes[0].receive(0.5, 1.0, 0.0)
    takes[1].receive(2.0, 3.0, None)
    figures = load_figures(takes, refused=2, failed=1)
    assert figures["audio_s_per_s"] == pytest.approx(2.0)
    assert (figures["served"], figures["refused"], figures["failed"], figures["in_flight_max"]) == (2, 2, 1, 1)
    assert (figures["first_pcm_ms_p50"], figures["first_pcm_ms_p95"]) == (500, 1000)
    assert figures["audible_ms_p95"] == 500
    assert load_figures([], 0, 0)["audio_s_per_s"] is None


def test_onset_s_finds_first_audible_sample() -> None:
    quiet = array("h", [100, -103, 0, 50]).tobytes()
    assert onset_s(quiet, 24_000) is None
    assert onset_s(quiet + array("h", [-104]).tobytes(), 4) == 1.0


# --- arrivals ----------------------------------------------------------------------------------------------------


def test_poisson_arrivals_are_exponential_and_repeat_for_a_seed() -> None:
    arrivals = poisson(20, 200, seed=1)
    assert arrivals == poisson(20, 200, seed=1) != poisson(20, 200, seed=2)
    assert len(arrivals) == pytest.approx(4000, rel=0.05)
    times = [arrival.at_s for arrival in arrivals]
    assert times == sorted(times)
    assert times[-1] < 200
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    assert gaps[len(gaps) // 2] == pytest.approx(0.6931 / 20, rel=0.1)  # an exponential distribution's median


def test_poisson_texts_have_all_lengths() -> None:
    texts = [arrival.text for arrival in poisson(50, 100, seed=3)]
    assert {len(text) for text in texts} == set(range(SHORTEST, LONGEST + 1))
    assert Arrival(0.0, "x" * 30).frames == 25


# --- lines -------------------------------------------------------------------------------------------------------


def test_text_and_json_lines_name_the_setting() -> None:
    figures = {"rtf": 0.05, "gone": None, "rounds": 30}
    line = text_line(SETTING, figures)
    assert line == "python -m x | H200 | torch 2.11 | 1b7 | batch 8 | 150 frames | rtf 0.050, rounds 30"
    parsed = json.loads(json_line(SETTING, figures))
    assert parsed["gpu"] == "H200"
    assert parsed["gone"] is None


def test_shown_formats_without_exponents() -> None:
    assert [shown(value) for value in (0.00001, 3.14159, 31.4159, 314.159, 3.1e9, 7)] == [
        "0.000", "3.142", "31.42", "314.2", "3100000000", "7",
    ]  # fmt: skip


def test_peer_lines_are_read_line_by_line() -> None:
    command = f"""{sys.executable} -c "print('a b'); print('{{}}')" """
    assert list(peer_lines(command, as_json=False)) == [f"peer {command} | a b", f"peer {command} | {{}}"]
    assert [json.loads(line)["line"] for line in peer_lines(command, as_json=True)] == ["a b", {}]


# --- the whole of each -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["custom_voice", "base", "voice_design"])
def test_latency_benchmark_completes(kind: str, capsys, monkeypatch) -> None:
    words = (tiny_directory(kind), *ON_CPU, "--batch", 1, 2, "--frames", 6, "--rounds", 1)
    lines = run(latency.main, capsys, monkeypatch, *words)
    assert [line["batch"] for line in lines] == [1, 1, 2, 2]
    assert all(line["first_pcm_ms_p50"] > 0 for line in lines[::2])
    for line in lines[1::2]:
        assert line["ms_per_frame"] == pytest.approx(80 * line["rtf"])
        assert line["audio_s_per_s"] == pytest.approx(line["batch"] / line["rtf"])
        assert line["times_memory_floor"] > 1
        assert 0 < line["step_ms_p95"] <= line["step_ms_max"]
        assert line["cpu_share"] > 0
    assert lines[0]["command"].startswith("python -m engine.bench.latency ")


def test_load_benchmark_completes_with_an_engine(capsys, monkeypatch) -> None:
    words = (tiny_directory("custom_voice"), *ON_CPU, "--rates", 40, "--seconds", 0.2, "--max-jobs", 1, "--waiting", 1)
    (line,) = run(load.main, capsys, monkeypatch, *words)
    assert line["served"] >= 1
    assert line["refused"] >= 1
    assert line["served"] + line["refused"] == line["requests"]
    assert line["first_pcm_ms_p95"] >= line["first_pcm_ms_p50"] > 0


def test_load_benchmark_completes_with_a_daemon(capsys, monkeypatch) -> None:
    with daemon() as process:
        words = ("--uri", process.uri, "--rates", 20, "--seconds", 0.5, "--json")
        (line,) = run(load.main, capsys, monkeypatch, *words)
    assert line["served"] == line["requests"] > 0
    assert (line["refused"], line["failed"], line["failure"]) == (0, 0, None)
    assert line["audible_ms_p50"] >= line["first_pcm_ms_p50"] > 0


@pytest.mark.parametrize(("code", "refused", "failed"), [("queue-full", 3, 0), ("synthesis-failed", 0, 3)])
async def test_listen_all_counts_rejections_apart_from_failures(code: str, refused: int, failed: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await async_read_event(reader)
        await async_write_event(Error("no", code).event(), writer)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        figures = await listen_all(f"tcp://127.0.0.1:{port}", None, [Arrival(0.0, "Tea.")] * 3)
    assert (figures["refused"], figures["failed"], figures["served"]) == (refused, failed, 0)


async def test_warm_up_raises_when_server_does_not_speak(unused_tcp_port: int) -> None:
    with pytest.raises(RuntimeError, match="does not speak: ConnectionRefusedError"):
        await warm_up(f"tcp://127.0.0.1:{unused_tcp_port}", None, "Tea.")


def test_load_benchmark_requires_directory_or_uri(capsys, monkeypatch) -> None:
    with pytest.raises(SystemExit):
        run(load.main, capsys, monkeypatch, "--json")
    assert "either DIR or --uri" in capsys.readouterr().err


def test_profile_benchmark_completes(capsys, monkeypatch, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    words = ("--batch", 2, "--chunk-frames", 2, "--repeats", 1, "--chunks", 1, "--trace", trace)
    lines = run(profile_talker.main, capsys, monkeypatch, tiny_directory("custom_voice"), *ON_CPU, *words)
    assert [line["part"] for line in lines] == ["talker", "code predictor", "codec"]
    assert lines[1]["ms_per_step"] == pytest.approx(lines[1]["ms"] / 15)
    assert lines[2]["ms_per_frame"] == pytest.approx(lines[2]["ms"] / 2)
    assert json.loads(trace.read_text())["traceEvents"]
