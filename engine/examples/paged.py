"""Synthesize many texts at once with the paged engine, as a server does: a thread and a stream for each.

python -m engine.examples.paged MODEL FOLDER [--texts 'One.' 'Two.'] [--ref-audio FILE --ref-text WORDS]

Their prompts have a common prefix, whose blocks are computed and stored once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from .. import Qwen3TTSModel
from ..voices.audio import RATE
from .arguments import example_parser, stream_keywords, voice_keywords

TEXTS = tuple(f"This is stream number {number}, and all of them speak at once." for number in range(1, 9))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = example_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", nargs="+", default=TEXTS)
    parser.add_argument("--share", type=float, default=0.3, help="share of the GPU's memory for keys and values")
    options = parser.parse_args(arguments)
    model = Qwen3TTSModel.from_pretrained(options.model, device_map=options.device)
    model.enable_streaming_optimizations(use_paged_engine=True, paged_gpu_memory_utilization=options.share)
    model.warmup_paged_engine()
    how = stream_keywords(options) | voice_keywords(model, options)

    def speak(text: str) -> np.ndarray:
        chunks = [wave for wave, _ in model.stream_generate_pcm(text, use_paged_engine=True, **how)]
        return np.concatenate([np.zeros(0, np.float32), *chunks])

    began_s = time.perf_counter()
    with ThreadPoolExecutor(len(options.texts)) as threads:
        waves = list(threads.map(speak, options.texts))
    took_s = time.perf_counter() - began_s
    options.folder.mkdir(parents=True, exist_ok=True)
    for item, wave in enumerate(waves):
        soundfile.write(options.folder / f"speech_{item}.wav", wave, RATE)
    seconds = sum(map(len, waves)) / RATE
    print(f"{len(waves)} streams at once: {seconds:.2f} s of audio in {took_s:.2f} s")


if __name__ == "__main__":
    main()
