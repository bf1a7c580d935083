"""Synthesize several texts together into FOLDER/speech_0.wav, FOLDER/speech_1.wav, …

python -m engine.examples.batch MODEL FOLDER [--texts 'One.' 'Two.'] [--ref-audio FILE --ref-text WORDS]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from ..voices.audio import RATE
from .arguments import example_parser, load_model, stream_keywords, voice_keywords

TEXTS = ("The first of three.", "This is the second one, and it is longer.", "And a third.")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = example_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", nargs="+", default=TEXTS)
    options = parser.parse_args(arguments)
    model = load_model(options)
    options.folder.mkdir(parents=True, exist_ok=True)
    waves: list[list[np.ndarray]] = [[] for _ in options.texts]
    how = stream_keywords(options) | voice_keywords(model, options) | {"first_chunk_emit_every": 5}
    for chunks, _ in model.batch_stream_generate_pcm([*options.texts], **how):
        for item, chunk in enumerate(chunks):
            if chunk.size > 0:  # empty between an item's chunks and after its last one
                waves[item].append(chunk)
    for item, chunks in enumerate(waves):
        path, wave = options.folder / f"speech_{item}.wav", np.concatenate([np.zeros(0, np.float32), *chunks])
        soundfile.write(path, wave, RATE)
        print(f"{path}: {len(wave) / RATE:.2f} s in {len(chunks)} chunks")


if __name__ == "__main__":
    main()
