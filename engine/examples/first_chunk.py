"""Measure the time to the first and to the last chunk, with different optimizations and chunk sizes.

python -m engine.examples.first_chunk MODEL [--ref-audio FILE --ref-text WORDS] [--rounds 5]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .. import Qwen3TTSModel
from .arguments import example_parser, stream_keywords, voice_keywords

TEXT = "A sentence that is long enough for five chunks of speech, with some words to spare."
OPERATIONS: dict[str, Any] = {"use_compile": False, "use_cuda_graphs": False, "compile_codebook_predictor": False}
GRAPHS = OPERATIONS | {"use_cuda_graphs": True}
EVERYTHING: dict[str, Any] = {}
TWELVE = {"emit_every_frames": 12}


@dataclass(frozen=True, slots=True)
class StreamingOptions:
    """One row of the table: options of `enable_streaming_optimizations` and of the stream."""

    name: str
    emit: str
    options: dict[str, Any]
    stream: dict[str, int]


WAYS = (
    StreamingOptions("operation by operation", "12", OPERATIONS, TWELVE),
    StreamingOptions("CUDA graphs", "12", GRAPHS, TWELVE),
    StreamingOptions("all optimizations", "12", EVERYTHING, TWELVE),
    StreamingOptions("all, two phases", "5, then 12", EVERYTHING, TWELVE | {"first_chunk_emit_every": 5}),
    StreamingOptions(
        "all, two phases", "1, then 12", EVERYTHING, TWELVE | {"first_chunk_emit_every": 1, "first_chunk_frames": 6}
    ),
)


@dataclass(frozen=True, slots=True)
class Took:
    """Medians over several streams with the same options, in seconds."""

    first_s: float
    total_s: float
    audio_s: float


def main(arguments: Sequence[str] | None = None) -> None:
    parser = example_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print("| way | emit | first chunk | speed-up | whole | speed-up | real-time factor |")
    print("|---|---|---|---|---|---|---|")
    baseline: Took | None = None
    for way, model in _models(options.model, options.device):
        keywords = stream_keywords(options) | voice_keywords(model, options) | way.stream
        took = measure(model, keywords, options.rounds)
        baseline = baseline or took
        print(_line(way, took, baseline), flush=True)


def measure(model: Qwen3TTSModel, keywords: dict[str, Any], rounds: int) -> Took:
    """Run the same stream `rounds` times, after one warm-up."""
    _stream(model, keywords)
    runs = [_stream(model, keywords) for _ in range(rounds)]
    return Took(*(statistics.median(values) for values in zip(*runs, strict=True)))


def _models(name: str, device: str | None) -> Iterator[tuple[StreamingOptions, Qwen3TTSModel]]:
    """Yield each row with its model, which is loaded again only where the optimizations differ."""
    model, given = None, None
    for way in WAYS:
        if model is None or way.options is not given:
            model = None  # frees its memory first
            model = Qwen3TTSModel.from_pretrained(name, device_map=device, slots=1)
            model.enable_streaming_optimizations(**way.options)
            given = way.options
        yield way, model


def _stream(model: Qwen3TTSModel, keywords: dict[str, Any]) -> tuple[float, float, float]:
    """Return the seconds to the first chunk, to the last, and of audio."""
    began_s = time.perf_counter()
    first_s, audio_s = 0.0, 0.0
    for wave, rate in model.stream_generate_pcm(TEXT, **keywords):
        first_s = first_s or time.perf_counter() - began_s
        audio_s += len(wave) / rate
    return first_s, time.perf_counter() - began_s, audio_s


def _line(way: StreamingOptions, took: Took, baseline: Took) -> str:
    first, total = f"{took.first_s * 1000:.1f} ms", f"{took.total_s:.2f} s"
    earlier, faster = f"{baseline.first_s / took.first_s:.2f}x", f"{baseline.total_s / took.total_s:.2f}x"
    return f"| {way.name} | {way.emit} | {first} | {earlier} | {total} | {faster} | {took.total_s / took.audio_s:.3f} |"


if __name__ == "__main__":
    main()
