"""Stream speech to the speakers or into a file while it is generated.

python -m engine.examples.stream MODEL --text 'Good evening.' [--ref-audio FILE --ref-text WORDS] [--output FILE]

Without --output it plays the speech, which needs `sounddevice` (pip install sounddevice).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import soundfile

from .arguments import example_parser, load_model, stream_keywords, voice_keywords

TEXT = "Hello! You hear this while the end of the sentence is still being made."


def main(arguments: Sequence[str] | None = None) -> None:
    parser = example_parser(__doc__)
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--output", help="a WAV file; without it the speech is played")
    options = parser.parse_args(arguments)
    model = load_model(options)
    chunks = model.stream_generate_pcm(
        options.text,
        emit_every_frames=12,  # in the second phase
        first_chunk_emit_every=1,  # for an early first chunk
        first_chunk_frames=6,
        **stream_keywords(options),
        **voice_keywords(model, options),
    )
    print(listen(chunks, options.output))


def listen(chunks: Iterator[tuple[Any, int]], output: str | None) -> str:
    """Write or play every chunk as it arrives; return a summary of the timing."""
    began_s, first_s, samples, rate = time.perf_counter(), None, 0, 1
    with ExitStack() as stack:
        sink = None
        for wave, rate in chunks:
            if sink is None:
                first_s = time.perf_counter() - began_s
                sink = stack.enter_context(_file(output, rate) if output else _speakers(rate))
            sink.write(wave)
            samples += len(wave)
    if first_s is None:
        return "the text is empty"
    took_s = time.perf_counter() - began_s
    return f"first audio {first_s * 1000:.0f} ms, {samples / rate:.2f} s of audio in {took_s:.2f} s"


def _file(path: str, rate: int) -> soundfile.SoundFile:
    return soundfile.SoundFile(path, "w", samplerate=rate, channels=1, subtype="PCM_16", format="WAV")


def _speakers(rate: int) -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # the package, or the PortAudio library that it needs
        raise SystemExit(f"to play, install sounddevice and PortAudio, or pass --output FILE: {error}") from error
    return sounddevice.OutputStream(samplerate=rate, channels=1, dtype="float32")


if __name__ == "__main__":
    main()
