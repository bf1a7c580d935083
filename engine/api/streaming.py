"""How the streaming methods run: prompts and options in, chunks of audio out."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeAlias

from ..checkpoint.loaded import LoadedCheckpoint
from ..voices.audio import Samples
from ..voices.prompt import VoicePrompt
from .code_predictor import FastCodebook
from .generation import Generation, TextInput
from .inputs import FromPretrained, text_or_pieces
from .optimizations import Optimizations, optimized_runner, paged_options
from .paged_engine import PagedEngine, PagedOptions, paged_runner
from .stream_options import StreamOptions
from .threaded_engine import EngineHandle, GenerationOptions, PlannedPrompt
from .windowed_decode import (
    BatchOutput,
    ChunkDecoder,
    StreamingChunkDecoder,
    WaveStream,
    WindowDecoder,
    WindowedChunkDecoder,
    decode_outputs,
    decode_outputs_in_thread,
)

Chunks: TypeAlias = Generator[tuple[Samples, int], None, None]
ChunkLists: TypeAlias = Generator[tuple[list[Samples], int], None, None]

log = logging.getLogger(__name__)


class StreamingGeneration(Generation):
    """Two engines, which share the weights, and the decoders for streams whose audio these do not decode."""

    optimizations: Optimizations | None = None
    """The options of the last `enable_streaming_optimizations`."""
    code_predictor: FastCodebook
    """The code predictor alone, with the streaming fork's `generate_fast` and `capture_codebook_cuda_graph`."""

    def __init__(self, loaded: LoadedCheckpoint, options: FromPretrained) -> None:
        codec_device = options.async_decode_device(loaded.model.talker.head.weight.device)
        super().__init__(loaded, options)
        self._paged = PagedEngine(self._open_paged, paged_options(Optimizations(), options))
        self.code_predictor = FastCodebook(loaded.model.code_predictor)
        self._windows = WindowDecoder(loaded.model.decoder)
        self._async_windows = WindowDecoder(loaded.model.decoder, codec_device)

    def _open_paged(self, options: PagedOptions) -> EngineHandle:
        """Build it while nothing else runs on the model, because graphs are captured."""
        runner = self.engine.exclusively(partial(paged_runner, self._model, options))
        return EngineHandle(runner, self._loaded.tokenizer)

    def _engine_for(self, options: StreamOptions) -> EngineHandle:
        return self._paged.opened() if options.use_paged_engine else self._handle

    def _optimize(self, options: Optimizations) -> None:
        """Exchange the engines for optimized ones. Raises RuntimeError while a stream is open."""
        if not (self.engine.idle and self._paged.idle):
            raise RuntimeError("enable_streaming_optimizations exchanges the engine: close all streams first")
        options.check_device(self.device.type)
        if options.use_paged_engine:
            self._paged.opened(paged_options(options, self._options))
        if self.device.type == "cuda":
            self._use_runner(optimized_runner(self._model, options, self._options.slots, self._options.max_positions))
            if options.use_codebook_cuda_graph:
                self.code_predictor.capture_codebook_cuda_graph()
        else:
            log.info("on the %s nothing is compiled or captured: kernels and graphs need a GPU", self.device.type)
        self.optimizations = options

    def _stream(
        self, text: TextInput, prompt: PlannedPrompt, options: StreamOptions, sampling: dict[str, Any]
    ) -> Chunks:
        """Check everything now and return the generator. `sampling`: the caller's other keywords."""
        generation = self._generation_options(options, sampling)
        return self._chunks(self._engine_for(options), text_or_pieces(text), prompt, options, generation)

    def _stream_batch(
        self, texts: list[str], prompts: list[PlannedPrompt], options: StreamOptions, sampling: dict[str, Any]
    ) -> ChunkLists:
        """Check everything now and return the generator. `sampling`: the caller's other keywords."""
        generation = self._generation_options(options, sampling)
        return self._chunk_lists(self._engine_for(options), texts, prompts, options, generation)

    def _generation_options(self, options: StreamOptions, sampling: dict[str, Any]) -> GenerationOptions:
        """Raises SamplingError."""
        return GenerationOptions(
            sampling=options.sampling(sampling, self.generate_defaults, self._model.config.talker.vocab_size),
            emission=options.emission,
            codes_only=options.decodes_separately,
        )

    def _chunks(
        self,
        handle: EngineHandle,
        text: str | Iterator[str],
        prompt: PlannedPrompt,
        options: StreamOptions,
        generation: GenerationOptions,
    ) -> Chunks:
        (request,) = handle.requests([prompt], generation)
        with closing(handle.engine.stream(request, text)) as stream:
            outputs: Iterator[BatchOutput] = ([output] for output in stream)
            with closing(self._decode(outputs, [prompt], options)) as waves:
                for (wave,) in waves:
                    if len(wave):
                        yield wave.numpy(), self._rate

    def _chunk_lists(
        self,
        handle: EngineHandle,
        texts: list[str],
        prompts: list[PlannedPrompt],
        options: StreamOptions,
        generation: GenerationOptions,
    ) -> ChunkLists:
        requests = handle.requests(prompts, generation)
        with closing(handle.engine.stream_together(list(zip(requests, texts, strict=True)))) as outputs, \
             closing(self._decode(outputs, prompts, options)) as rounds:  # fmt: skip
            for waves in rounds:
                if any(len(wave) for wave in waves):
                    yield [wave.numpy() for wave in waves], self._rate

    def _decode(
        self, outputs: Iterator[BatchOutput], prompts: Sequence[PlannedPrompt], options: StreamOptions
    ) -> WaveStream:
        """Return the audio of each output: the engine's own, or decoded here as the options request."""
        if not options.decodes_separately:
            return decode_outputs(outputs)
        windows = self._async_windows if options.async_decode else self._windows
        if options.windowed_decode:
            self._prepare(windows, options.async_decode)
        decoders = [self._chunk_decoder(prompt.voice, options, windows) for prompt in prompts]
        if options.async_decode:
            return decode_outputs_in_thread(outputs, decoders, windows.use_own_stream)
        return decode_outputs(outputs, decoders)

    def _prepare(self, windows: WindowDecoder, in_thread: bool) -> None:
        """Compile and capture windows at their first use, because few streams use them, and while no step runs."""
        wanted = self.optimizations
        if wanted and (wanted.capture_async_graph or not in_thread):
            self.engine.exclusively(partial(self._paged.exclusively, partial(windows.prepare, wanted)))

    def _chunk_decoder(self, voice: VoicePrompt | None, options: StreamOptions, windows: WindowDecoder) -> ChunkDecoder:
        reference = voice.codes if voice and voice.text else None
        if options.windows is None:
            return StreamingChunkDecoder(windows.decoder, reference)
        decode = partial(windows.window, prepared=options.use_optimized_decode)
        return WindowedChunkDecoder(decode, options.windows, reference, windows.decoder.frame_samples)
