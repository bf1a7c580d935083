"""How long one listener waits, and how many one GPU can serve: first audio, ms a frame, distance to the floor.

python -m engine.bench.latency DIR [--batch 1 8 32] [--frames 150] [--rounds 30] [--json] [--peer COMMAND]

First audio: from the request to the chunk in hand, of a voice that has spoken before; `audible` is when the first
sample above −50 dBFS is played. ms/frame: whole utterances, codec included. Steps of the engine are
timed while all listeners are between their first chunk and the first end. Bytes are those of `roofline`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ..model.config import FRAME_S
from .machine import Limits, measure_limits
from .metrics import Figure, RequestTrace, percentile, spread
from .report import command_line, engine_parser, json_line, peer_lines, text_line
from .roofline import Load, compute_floor_s, frame_bytes
from .speech import TEXT, BenchRequest, BenchSpeaker

FIRST_FRAMES = 16
WHOLE_RUNS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure: frames of a whole utterance, rounds of first audio."""

    frames: int
    rounds: int


def main() -> None:
    options = _options()
    speaker = BenchSpeaker(options.directory, max(options.batch), options)
    limits = measure_limits(speaker.device, speaker.model.talker.head.weight.dtype)
    plan, command = Plan(options.frames, options.rounds), command_line("engine.bench.latency", sys.argv[1:])
    line = json_line if options.json else text_line
    for _ in range(options.repeat):
        for batch in options.batch:
            setting = speaker.setting(command, batch, options.frames)
            for figures in measure(speaker, batch, plan, limits):
                print(line(setting, figures), flush=True)
        for peer in options.peer:
            for text in peer_lines(peer, options.json):
                print(text, flush=True)


def measure(speaker: BenchSpeaker, batch: int, plan: Plan, limits: Limits) -> Iterator[dict[str, Figure]]:
    """The figures of one batch size, a dict for each line."""
    speaker.warm_up(batch)
    yield first_audio(speaker, batch, plan.rounds)
    runs = []
    for _ in range(WHOLE_RUNS):
        takes = speaker.speak([BenchRequest(TEXT, plan.frames, seed) for seed in range(batch)])
        runs.append((takes, host_figures(speaker)))
    takes, host = sorted(runs, key=lambda run: _wall_s(run[0]))[WHOLE_RUNS // 2]
    yield throughput(takes) | host | against_floor(speaker, takes, limits)


def first_audio(speaker: BenchSpeaker, batch: int, rounds: int) -> dict[str, Figure]:
    """Return the latency of `batch` simultaneous requests on an idle engine."""
    takes = [
        take
        for number in range(rounds)
        for take in speaker.speak([BenchRequest(TEXT, FIRST_FRAMES, number * batch + row) for row in range(batch)])
    ]
    return {
        "rounds": rounds,
        **spread("first_pcm_ms", (take.first_pcm_ms for take in takes)),
        **spread("audible_ms", (take.first_audible_ms for take in takes)),
    }


def host_figures(speaker: BenchSpeaker) -> dict[str, Figure]:
    """Return the CPU share and the longest steps of the last run; steps with prompts or ends are not counted."""
    steps_ms = [step_s * 1000 for step_s in speaker.steps_s]
    return {
        "cpu_share": speaker.cpu_share,
        "step_ms_p95": percentile(steps_ms, 0.95),
        "step_ms_max": max(steps_ms, default=None),
    }


def throughput(takes: list[RequestTrace]) -> dict[str, Figure]:
    """One run of whole utterances."""
    wall_s, frames = _wall_s(takes), sum(take.frames for take in takes)
    steady = [take.steady_ms_per_frame for take in takes if take.steady_ms_per_frame is not None]
    return {
        "ms_per_frame": wall_s * 1000 / _steps(takes),
        "ms_per_frame_steady": statistics.median(steady) if steady else None,
        "rtf": wall_s / (_steps(takes) * FRAME_S),
        "frames_per_s": frames / wall_s,
        "audio_s_per_s": frames * FRAME_S / wall_s,
        "underruns": sum(take.underruns for take in takes),
    }


def against_floor(speaker: BenchSpeaker, takes: list[RequestTrace], limits: Limits) -> dict[str, Figure]:
    """Bytes that the run had to move, how fast it moved them, and how far that is from what the device can."""
    model, steps = speaker.model, _steps(takes)
    load = Load(
        batch=len(takes),
        positions=steps / 2,
        weight_bytes=model.talker.head.weight.element_size(),
        codec_bytes=model.decoder.quantizer.table.element_size(),
        chunk_frames=sum(take.frames for take in takes) / sum(take.chunks for take in takes),
    )
    moved, step_s = sum(frame_bytes(model.config, load).values()), _wall_s(takes) / steps
    memory_s = moved / limits.bytes_per_s
    return {
        "gb_per_frame": moved / 1e9,
        "achieved_gb_per_s": moved / step_s / 1e9,
        "device_gb_per_s": limits.bytes_per_s / 1e9,
        "device_tflops": limits.flops_per_s / 1e12,
        "memory_floor_ms": memory_s * 1000,
        "compute_floor_ms": compute_floor_s(model.config, len(takes), limits.flops_per_s) * 1000,
        "times_memory_floor": step_s / memory_s,
    }


def _wall_s(takes: list[RequestTrace]) -> float:
    return max(take.last_s for take in takes) - min(take.began_s for take in takes)


def _steps(takes: list[RequestTrace]) -> int:
    return max(take.frames for take in takes)


def _options() -> argparse.Namespace:
    parser = engine_parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="listeners at once")
    parser.add_argument("--frames", type=int, default=150, help="of each whole utterance")
    parser.add_argument("--rounds", type=int, default=30, help="of first audio")
    parser.add_argument("--repeat", type=int, default=1, help="do it all so often, in turn with the peers")
    parser.add_argument("--peer", action="append", default=[], metavar="COMMAND", help="another engine's own benchmark")
    return parser.parse_args()


if __name__ == "__main__":
    main()
