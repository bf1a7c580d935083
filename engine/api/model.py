"""The public Python API: what the reference package offers, and on top of it what its streaming fork adds.

Names, parameters and defaults are theirs; where the fork changed a default of the reference (`non_streaming_mode` of
`generate_custom_voice` and `generate_voice_design`), the reference's stands. The fork is called the seed here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeAlias

from ..checkpoint.loaded import LoadedCheckpoint
from ..voices.audio import AudioSource, Samples
from ..voices.prompt import VoicePrompt
from .clone_prompts import VoiceClonePromptItem, items_of, voice_of
from .code_predictor import FastCodebook
from .generation import Batch, Pieces, WholeSpeech
from .inputs import FromPretrained, numbered, pieces_of, spread, texts_of
from .optimizations import Optimizations, optimized_runner, paged_options
from .paged_engine import PagedEngine, PagedOptions, paged_runner
from .stream_options import StreamOptions
from .threaded_engine import EngineHandle, Planned
from .windowed_decode import (
    Round,
    Sound,
    StepSound,
    WaveStream,
    WindowDecoder,
    WindowSound,
    sounded,
    sounded_beside,
)

__all__ = ["Qwen3TTSModel", "VoiceClonePromptItem"]

Chunks: TypeAlias = Generator[tuple[Samples, int], None, None]
ChunkLists: TypeAlias = Generator[tuple[list[Samples], int], None, None]

log = logging.getLogger(__name__)


class Qwen3TTSModel(WholeSpeech):
    """A checkpoint that speaks. May be used from several threads, and with several streams open at once.

    It differs from the reference on purpose in this: every item of a batch is what it would be alone; random draws
    follow `seed` and are other draws; control tokens and leading blanks in texts are not read as such; an unknown
    keyword is an error. From the streaming fork: sound is made frame by frame and is exact at any length, so that
    windows and cross-fades are a choice (`windowed_decode`).

    Sampling keywords of every method: do_sample, temperature, top_k, top_p, the same with subtalker_ (and
    subtalker_dosample), repetition_penalty, repetition_penalty_window, min_new_tokens, max_new_tokens, seed,
    eos_token_id. What is not given comes from the checkpoint's generation_config.json. `max_new_tokens` counts samples
    as the reference does: N without an end give N - 1 frames of 80 ms. Item n of a batch is drawn with `seed` + n.
    eos_token_id: one or several codes of group 0 that end the speech beside the model's own end, from its first frame.
    Errors: PromptError, SamplingError and AudioError are ValueErrors; EngineFailure is a RuntimeError.
    """

    optimizations: Optimizations | None = None
    """What `enable_streaming_optimizations` was told last."""
    code_predictor: FastCodebook
    """The code predictor by itself, with the seed's `generate_fast` and `capture_codebook_cuda_graph`."""

    def __init__(self, loaded: LoadedCheckpoint, options: FromPretrained) -> None:
        sound_device = options.sound_device(loaded.model.talker.head.weight.device)
        super().__init__(loaded, options)
        self._paged = PagedEngine(self._open_paged, paged_options(Optimizations(), options))
        self.code_predictor = FastCodebook(loaded.model.code_predictor)
        self._windows = WindowDecoder(loaded.model.decoder)
        self._windows_beside = WindowDecoder(loaded.model.decoder, sound_device)

    def stream_generate_voice_clone(
        self,
        text: Pieces,
        language: str | None = None,
        ref_audio: AudioSource | None = None,
        ref_text: str | None = None,
        x_vector_only_mode: bool = False,
        voice_clone_prompt: Any = None,
        non_streaming_mode: bool = False,
        emit_every_frames: int = 8,
        decode_window_frames: int = 80,
        overlap_samples: int = 512,
        max_frames: int = 10000,
        use_optimized_decode: bool = True,
        first_chunk_emit_every: int = 0,
        first_chunk_decode_window: int = 48,
        first_chunk_frames: int = 48,
        repetition_penalty_window: int = 100,
        repetition_penalty: float = 1.0,
        async_decode: bool = False,
        use_paged_engine: bool = False,
        windowed_decode: bool = False,
        **kwargs: Any,
    ) -> Chunks:
        """Speak while the codes are made: yields (float32 [1920 · n], 24000), n = emit_every_frames but for the last.

        `text` may be an iterator of pieces: each is asked for only when nothing more can be said without it. The
        chunks put together are what `generate_voice_clone` gives. Closing or dropping the generator ends the job.

        With first_chunk_emit_every > 0, chunks have that many frames until first_chunk_frames are out. The penalty
        looks back over repetition_penalty_window samples (0: all, at most 512) and is off by default, as in the seed.

        windowed_decode=True decodes as the seed does, worse and slower: each chunk anew, in a window of
        decode_window_frames frames that ends with it (first_chunk_decode_window in the first phase). Its first
        overlap_samples samples are blended into what the window before made of the same samples, which is why chunks
        come so much later; speech rises at its beginning and falls at its end over as many. use_optimized_decode: with
        what `enable_streaming_optimizations` has prepared. Otherwise these four have no effect: the incremental decode
        is exact, needs no window, and loses nothing at chunk borders.

        async_decode=True makes the sound in a thread of its own, on `from_pretrained`'s codec_device, and gives each
        chunk one chunk later. The engine decodes beside the frames anyway: this is worth it with a second GPU only.

        use_paged_engine=True speaks the same out of the paged engine, which is opened at its first use: see
        `enable_streaming_optimizations`.

        Source: the seed's function of this name; unlike there, speech has at least 2 frames (min_new_tokens) and
        max_new_tokens counts where it is given and smaller than max_frames. Raises ValueError for contradictions.
        """
        options = StreamOptions.pick(locals())
        items = self._items(voice_clone_prompt, ref_audio, ref_text, x_vector_only_mode)
        (voice,) = (voice_of(item) for item in spread("voice_clone_prompt", items, 1))
        return self._stream(text, self._clone(voice, language, not non_streaming_mode), options, kwargs)

    def stream_generate_custom_voice(
        self,
        text: Pieces,
        speaker: str,
        language: str | None = None,
        instruct: str | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> Chunks:
        """`generate_custom_voice` as it is made; further keywords as for `stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split(kwargs)
        plan = self._planner.custom_voice(speaker, language, instruct, flowing=not non_streaming_mode)
        return self._stream(text, (plan, None), options, sampling)

    def stream_generate_voice_design(
        self,
        text: Pieces,
        instruct: str,
        language: str | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> Chunks:
        """`generate_voice_design` as it is made; further keywords as for `stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split(kwargs)
        plan = self._planner.voice_design(instruct, language, flowing=not non_streaming_mode)
        return self._stream(text, (plan, None), options, sampling)

    def stream_generate_pcm(
        self,
        text: Pieces,
        *,
        voice_clone_prompt: Any = None,
        speaker: str | None = None,
        instruct: str | None = None,
        **kwargs: Any,
    ) -> Chunks:
        """Stream from whatever kind of checkpoint this is; keywords as for the stream function of that kind.

        The seed's function of this name belongs to its inner network and takes token ids; this one takes text.
        """
        given = {"voice_clone_prompt": voice_clone_prompt, "speaker": speaker, "instruct": instruct}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        streams: dict[str, Callable[..., Chunks]] = {
            "base": self.stream_generate_voice_clone,
            "custom_voice": self.stream_generate_custom_voice,
            "voice_design": self.stream_generate_voice_design,
        }
        return streams[self.kind](text, **kwargs)

    # --- batches ------------------------------------------------------------------------------------------------

    def batch_stream_generate_voice_clone(
        self,
        text: list[str],
        language: Batch | None = None,
        voice_clone_prompt: Any = None,
        non_streaming_mode: bool = False,
        emit_every_frames: int = 8,
        decode_window_frames: int = 80,
        overlap_samples: int = 512,
        max_frames: int = 10000,
        use_optimized_decode: bool = True,
        first_chunk_emit_every: int = 0,
        first_chunk_decode_window: int = 48,
        first_chunk_frames: int = 48,
        repetition_penalty_window: int = 100,
        repetition_penalty: float = 1.0,
        async_decode: bool = False,
        compact_finished: bool = False,
        use_paged_engine: bool = False,
        windowed_decode: bool = False,
        **kwargs: Any,
    ) -> ChunkLists:
        """Speak several texts together: yields (a float32 [1920 · n] for each text, 24000), as for one stream.

        One prompt and language for all, or one for each. An item's array is empty while it has nothing new: before its
        turn (more texts than `slots`), between its chunks, and when it has ended, which is when its last chunk comes,
        however long the others go on. Each item is what it would be alone.

        compact_finished: has no effect. An item that has ended leaves the batch with its last frame, always, and the
        next text takes its slot; nothing is copied for it. Raises as `stream_generate_voice_clone` does.
        """
        options = StreamOptions.pick(locals())
        if voice_clone_prompt is None:
            raise ValueError("voice_clone_prompt is required: one for all texts, or a list with one for each")
        texts = texts_of(text)
        items = items_of(voice_clone_prompt)
        planned = self._clones(len(texts), items, language, not non_streaming_mode)
        return self._batch(texts, planned, options, kwargs)

    def batch_stream_generate_custom_voice(
        self,
        text: list[str],
        speaker: Batch,
        language: Batch | None = None,
        instruct: str | list[str | None] | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> ChunkLists:
        """`generate_custom_voice` as it is made; further keywords as for `batch_stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split_batch(kwargs)
        texts = texts_of(text)
        given = {"speaker": speaker, "language": language, "instruct": instruct}
        return self._batch(texts, self._presets(len(texts), given, not non_streaming_mode), options, sampling)

    def batch_stream_generate_voice_design(
        self,
        text: list[str],
        instruct: Batch,
        language: Batch | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> ChunkLists:
        """`generate_voice_design` as it is made; further keywords as for `batch_stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split_batch(kwargs)
        texts = texts_of(text)
        given = {"instruct": instruct, "language": language}
        return self._batch(texts, self._designs(len(texts), given, not non_streaming_mode), options, sampling)

    def batch_stream_generate_pcm(
        self,
        text: list[str],
        *,
        voice_clone_prompt: Any = None,
        speaker: Batch | None = None,
        instruct: str | list[str | None] | None = None,
        **kwargs: Any,
    ) -> ChunkLists:
        """Stream several texts from whatever kind of checkpoint this is, as `stream_generate_pcm` does one."""
        given = {"voice_clone_prompt": voice_clone_prompt, "speaker": speaker, "instruct": instruct}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        streams: dict[str, Callable[..., ChunkLists]] = {
            "base": self.batch_stream_generate_voice_clone,
            "custom_voice": self.batch_stream_generate_custom_voice,
            "voice_design": self.batch_stream_generate_voice_design,
        }
        return streams[self.kind](text, **kwargs)

    # --- speed --------------------------------------------------------------------------------------------------

    def enable_streaming_optimizations(
        self,
        decode_window_frames: int = 80,
        use_compile: bool = True,
        use_cuda_graphs: bool = True,
        compile_mode: str = "reduce-overhead",
        use_fast_codebook: bool = False,
        compile_codebook_predictor: bool = True,
        use_codebook_cuda_graph: bool = False,
        capture_async_graph: bool = False,
        use_paged_engine: bool = False,
        paged_gpu_memory_utilization: float = 0.3,
        paged_enforce_eager: bool = False,
    ) -> Qwen3TTSModel:
        """Make this model as fast as its GPU allows, and return it; call it while nothing is being spoken.

        use_paged_engine=True opens the paged engine, for streams that ask for it, beside the one for all others: there
        keys and values lie in blocks, which equal beginnings of prompts share, so that many more streams fit into the
        share paged_gpu_memory_utilization of the GPU's memory; paged_enforce_eager=True leaves its graphs out. A single
        stream gains nothing by it, and ends with a fade at `max_positions`, or 4096.

        What each option does stands at `Optimizations`. The way that comes of it is checked against the plain one
        before it is used. Memory is then fixed: `max_positions` for each of `slots`, by default 4096 or what fits, so
        that speech beyond it ends with a fade. On a CPU nothing is compiled or captured, which is logged. Raises
        ValueError for values and combinations that cannot be, MemoryError, and RuntimeError while a stream is open.
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        options = Optimizations(**given)
        if not (self.engine.idle and self._paged.idle):
            raise RuntimeError("enable_streaming_optimizations exchanges the engine: close what is being spoken first")
        options.check_device(self.device.type)
        if options.use_paged_engine:
            self._paged.opened(paged_options(options, self._options))
        if self.device.type == "cuda":
            self._optimize(options)
        else:
            log.info("on the %s nothing is compiled or captured: kernels and graphs are a GPU's", self.device.type)
        self.optimizations = options
        return self

    def capture_codebook_cuda_graph(self, warmup_runs: int = 3) -> None:
        """Let `code_predictor.generate_fast` replay a CUDA graph. Raises ValueError without a GPU."""
        self.code_predictor.capture_codebook_cuda_graph(warmup_runs)

    def warmup_paged_engine(self) -> None:
        """Open the paged engine and capture its graphs before they are needed. Raises MemoryError."""
        self._paged.opened()

    # --- inside -------------------------------------------------------------------------------------------------

    def _open_paged(self, options: PagedOptions) -> EngineHandle:
        """While nothing else runs on the model, for graphs are captured."""
        runner = self.engine.exclusively(partial(paged_runner, self._model, options))
        return EngineHandle(runner, self._loaded.tokenizer)

    def _driven_by(self, options: StreamOptions) -> EngineHandle:
        return self._paged.opened() if options.use_paged_engine else self._driven

    def _optimize(self, options: Optimizations) -> None:
        self._drive(optimized_runner(self._model, options, self._options.slots, self._options.max_positions))
        if options.use_codebook_cuda_graph:
            self.capture_codebook_cuda_graph()

    def _stream(self, text: Pieces, planned: Planned, options: StreamOptions, sampling: dict[str, Any]) -> Chunks:
        how = self._how(options, sampling)
        return self._chunks(self._driven_by(options), pieces_of(text), planned, options, how)

    def _batch(
        self, texts: list[str], planned: list[Planned], options: StreamOptions, sampling: dict[str, Any]
    ) -> ChunkLists:
        how = self._how(options, sampling)
        return self._chunk_lists(self._driven_by(options), texts, planned, options, how)

    def _how(self, options: StreamOptions, sampling: dict[str, Any]) -> dict[str, Any]:
        """What an utterance needs beyond its plan and voice. Raises for what the caller must not ask."""
        drawn = options.sampling(sampling, self.generate_defaults, self._model.config.talker.vocab_size)
        return {"sampling": drawn, "emission": options.emission, "codes_only": options.sounds_itself}

    def _chunks(
        self,
        driven: EngineHandle,
        text: str | Iterator[str],
        planned: Planned,
        options: StreamOptions,
        how: dict[str, Any],
    ) -> Chunks:
        with closing(driven.engine.stream(driven.utterance(planned, **how), text)) as made:
            rounds: Iterator[Round] = ([progress] for progress in made)
            with closing(self._heard(rounds, [planned], options)) as heard:
                for (wave,) in heard:
                    if len(wave):
                        yield wave.numpy(), self._rate

    def _chunk_lists(
        self,
        driven: EngineHandle,
        texts: list[str],
        planned: list[Planned],
        options: StreamOptions,
        how: dict[str, Any],
    ) -> ChunkLists:
        sampling = how.pop("sampling")
        utterances = [
            driven.utterance(each, sampling=numbered(sampling, item), **how) for item, each in enumerate(planned)
        ]
        with closing(driven.engine.stream_together(list(zip(utterances, texts, strict=True)))) as rounds, \
             closing(self._heard(rounds, planned, options)) as heard:  # fmt: skip
            for waves in heard:
                if any(len(wave) for wave in waves):
                    yield [wave.numpy() for wave in waves], self._rate

    def _heard(self, rounds: Iterator[Round], planned: Sequence[Planned], options: StreamOptions) -> WaveStream:
        """The sound of each round: the engine's, or made here as the options say."""
        if not options.sounds_itself:
            return sounded(rounds)
        place = self._windows_beside if options.async_decode else self._windows
        if options.windowed_decode:
            self._prepare(place, options.async_decode)
        sounds = [self._sound(voice, options, place) for _, voice in planned]
        return sounded_beside(rounds, sounds, place.enter) if options.async_decode else sounded(rounds, sounds)

    def _prepare(self, place: WindowDecoder, beside: bool) -> None:
        """Compile and capture windows when the first one is wanted, and no step runs: few streams ever want one."""
        wanted = self.optimizations
        if wanted and (wanted.capture_async_graph or not beside):
            self.engine.exclusively(partial(self._paged.exclusively, partial(place.prepare, wanted)))

    def _sound(self, voice: VoicePrompt | None, options: StreamOptions, place: WindowDecoder) -> Sound:
        reference = voice.codes if voice and voice.text else None
        if options.windows is None:
            return StepSound(place.decoder, reference)
        decode = partial(place.window, prepared=options.use_optimized_decode)
        return WindowSound(decode, options.windows, reference, place.decoder.frame_samples)
