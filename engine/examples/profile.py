"""Measure `generate_fast`, without and with a CUDA graph, and write a trace of the first five chunks of a stream.

python -m engine.examples.profile MODEL [--ref-audio FILE --ref-text WORDS] [--trace FILE]

`python -m engine.bench.profile_talker` measures every part of the engine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .. import Qwen3TTSModel
from .arguments import example_parser, load_model, stream_keywords, voice_keywords

GROUPS, FRAMES_A_CHUNK, CHUNKS = 15, 12, 5
TEXT = "A sentence that is long enough for five chunks of speech, with some words to spare."


def main(arguments: Sequence[str] | None = None) -> None:
    parser = example_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--trace", help="a file for chrome://tracing or ui.perfetto.dev")
    options = parser.parse_args(arguments)
    model = load_model(options)
    print("| way | ms a frame | ms a step | speed-up | ms in 12 frames |\n|---|---|---|---|---|")
    loop_ms = predictor_ms(model, options.repeats)
    _print("`generate_fast`", loop_ms, loop_ms)
    if model.device.type == "cuda":
        model.capture_codebook_cuda_graph()
        _print("`generate_fast`, CUDA graph", predictor_ms(model, options.repeats), loop_ms)
    if options.trace:
        print(trace(model, stream_keywords(options) | voice_keywords(model, options), options.trace))


def predictor_ms(model: Qwen3TTSModel, repeats: int) -> float:
    """Return the milliseconds that code groups 1 to 15 of one frame take."""
    predictor = model.code_predictor
    embeds = torch.zeros(1, 2, predictor.width, device=model.device)
    call = partial(predictor.generate_fast, embeds, GROUPS, seed=0)
    call()
    began_s = time.perf_counter()
    for _ in range(repeats):
        call()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return (time.perf_counter() - began_s) / repeats * 1000


def trace(model: Qwen3TTSModel, keywords: dict[str, Any], file: str) -> str:
    """Write a trace of the first chunks of a stream; return a table of the operations that took the most time."""
    on_gpu = model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    stream = model.stream_generate_pcm(TEXT, emit_every_frames=FRAMES_A_CHUNK, **keywords)
    with profile(activities=activities) as profiler:
        list(islice(stream, CHUNKS))
    stream.close()
    profiler.export_chrome_trace(file)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=order, row_limit=10, max_name_column_width=60))


def _print(way: str, frame_ms: float, loop_ms: float) -> None:
    speed_up = f"{loop_ms / frame_ms:.2f}x"
    print(f"| {way} | {frame_ms:.2f} | {frame_ms / GROUPS:.3f} | {speed_up} | {frame_ms * FRAMES_A_CHUNK:.0f} |")


if __name__ == "__main__":
    main()
