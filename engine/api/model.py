"""The public Python API: the reference package's methods, and those that its streaming fork adds.

Names, parameters and defaults are theirs; where the fork changed a default of the reference (`non_streaming_mode` of
`generate_custom_voice` and `generate_voice_design`), the reference's holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..voices.audio import AudioSource
from .clone_prompts import VoiceClonePromptItem, items_of, voice_of
from .generation import Batch, TextInput
from .inputs import broadcast, texts_of
from .optimizations import Optimizations
from .stream_options import StreamOptions
from .streaming import ChunkLists, Chunks, StreamingGeneration
from .threaded_engine import PlannedPrompt

__all__ = ["Qwen3TTSModel", "VoiceClonePromptItem"]


class Qwen3TTSModel(StreamingGeneration):
    """A loaded checkpoint. It may be used from several threads, and with several streams open at once.

    Differences from the reference, on purpose: every item of a batch equals what it would be alone; random draws
    follow `seed` and are other draws; control tokens and leading blanks in texts are not interpreted; an unknown
    keyword is an error. Difference from the streaming fork: audio is decoded frame by frame, exactly at any length;
    windows and cross-fades are an option (`windowed_decode`).

    Sampling keywords of every method: do_sample, temperature, top_k, top_p, the same with subtalker_ (and
    subtalker_dosample), repetition_penalty, repetition_penalty_window, min_new_tokens, max_new_tokens, seed,
    eos_token_id. Missing ones come from the checkpoint's generation_config.json. `max_new_tokens` counts samples as
    the reference does: N without an end make N - 1 frames of 80 ms. Item n of a batch is drawn with `seed` + n.
    eos_token_id: one or several codes of group 0 that end the speech besides the model's own, from its first frame.

    Streaming options of every streaming method: see `StreamOptions`.

    Raises PromptError, SamplingError and AudioError, which are ValueErrors, and EngineFailure, a RuntimeError.
    """

    def stream_generate_voice_clone(
        self,
        text: TextInput,
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
        """`generate_voice_clone` as a stream: yield chunks (float32 [1920 · n], 24000) while codes are generated.

        The options are documented at `StreamOptions`. `text` may be an iterable of pieces; the next one is requested
        only when no frame can be made without it. The chunks joined equal the audio of `generate_voice_clone`, but
        that it has at least 2 frames. Closing or dropping the generator cancels the job. Raises ValueError.
        """
        options = StreamOptions(
            emit_every_frames=emit_every_frames,
            decode_window_frames=decode_window_frames,
            overlap_samples=overlap_samples,
            max_frames=max_frames,
            use_optimized_decode=use_optimized_decode,
            first_chunk_emit_every=first_chunk_emit_every,
            first_chunk_decode_window=first_chunk_decode_window,
            first_chunk_frames=first_chunk_frames,
            repetition_penalty_window=repetition_penalty_window,
            repetition_penalty=repetition_penalty,
            async_decode=async_decode,
            use_paged_engine=use_paged_engine,
            windowed_decode=windowed_decode,
        )
        items = self._items(voice_clone_prompt, ref_audio, ref_text, x_vector_only_mode)
        (voice,) = (voice_of(item) for item in broadcast("voice_clone_prompt", items, 1))
        return self._stream(text, self._plan_clone(voice, language, not non_streaming_mode), options, kwargs)

    def stream_generate_custom_voice(
        self,
        text: TextInput,
        speaker: str,
        language: str | None = None,
        instruct: str | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> Chunks:
        """`generate_custom_voice` as a stream; other keywords as for `stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split(kwargs)
        plan = self._planner.custom_voice(speaker, language, instruct, streaming=not non_streaming_mode)
        return self._stream(text, PlannedPrompt(plan), options, sampling)

    def stream_generate_voice_design(
        self,
        text: TextInput,
        instruct: str,
        language: str | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> Chunks:
        """`generate_voice_design` as a stream; other keywords as for `stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split(kwargs)
        plan = self._planner.voice_design(instruct, language, streaming=not non_streaming_mode)
        return self._stream(text, PlannedPrompt(plan), options, sampling)

    def stream_generate_pcm(
        self,
        text: TextInput,
        *,
        voice_clone_prompt: Any = None,
        speaker: str | None = None,
        instruct: str | None = None,
        **kwargs: Any,
    ) -> Chunks:
        """Stream from any kind of checkpoint; keywords as for the streaming method of its kind.

        The streaming fork's function of this name belongs to its inner network and takes token ids, not text.
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
        """Synthesize several texts together; yield (a float32 [1920 · n] for each text, 24000).

        One prompt and language for all, or one for each. An item's array is empty while it lacks new audio: before it
        gets one of the `slots`, between its chunks, and after its last one. Each item equals what it would be alone.
        compact_finished is ignored: an item always leaves the batch with its last frame. Raises ValueError.
        """
        options = StreamOptions(
            emit_every_frames=emit_every_frames,
            decode_window_frames=decode_window_frames,
            overlap_samples=overlap_samples,
            max_frames=max_frames,
            use_optimized_decode=use_optimized_decode,
            first_chunk_emit_every=first_chunk_emit_every,
            first_chunk_decode_window=first_chunk_decode_window,
            first_chunk_frames=first_chunk_frames,
            repetition_penalty_window=repetition_penalty_window,
            repetition_penalty=repetition_penalty,
            async_decode=async_decode,
            use_paged_engine=use_paged_engine,
            windowed_decode=windowed_decode,
        )
        if voice_clone_prompt is None:
            raise ValueError("voice_clone_prompt is required: one for all texts, or a list with one for each")
        texts = texts_of(text)
        prompts = self._plan_clones(len(texts), items_of(voice_clone_prompt), language, not non_streaming_mode)
        return self._stream_batch(texts, prompts, options, kwargs)

    def batch_stream_generate_custom_voice(
        self,
        text: list[str],
        speaker: Batch,
        language: Batch | None = None,
        instruct: str | list[str | None] | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> ChunkLists:
        """`generate_custom_voice` as a stream; other keywords as for `batch_stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split_batch(kwargs)
        texts = texts_of(text)
        prompts = self._plan_presets(len(texts), speaker, language, instruct, not non_streaming_mode)
        return self._stream_batch(texts, prompts, options, sampling)

    def batch_stream_generate_voice_design(
        self,
        text: list[str],
        instruct: Batch,
        language: Batch | None = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> ChunkLists:
        """`generate_voice_design` as a stream; other keywords as for `batch_stream_generate_voice_clone`."""
        options, sampling = StreamOptions.split_batch(kwargs)
        texts = texts_of(text)
        prompts = self._plan_designs(len(texts), instruct, language, not non_streaming_mode)
        return self._stream_batch(texts, prompts, options, sampling)

    def batch_stream_generate_pcm(
        self,
        text: list[str],
        *,
        voice_clone_prompt: Any = None,
        speaker: Batch | None = None,
        instruct: str | list[str | None] | None = None,
        **kwargs: Any,
    ) -> ChunkLists:
        """Stream several texts from any kind of checkpoint, as `stream_generate_pcm` does one."""
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
        """Compile and capture as the options request, and return this model. Call it while no stream is open.

        The options are documented at `Optimizations`. Optimized kernels are checked against eager ones before they
        are used. Memory is fixed from then on: `max_positions` for each of `slots`, by default 4096 or what fits;
        longer speech is faded out. On a CPU nothing is compiled or captured, which is logged.

        Raises ValueError for bad or contradictory values, MemoryError, and RuntimeError while a stream is open.
        """
        options = Optimizations(
            decode_window_frames=decode_window_frames,
            use_compile=use_compile,
            use_cuda_graphs=use_cuda_graphs,
            compile_mode=compile_mode,
            use_fast_codebook=use_fast_codebook,
            compile_codebook_predictor=compile_codebook_predictor,
            use_codebook_cuda_graph=use_codebook_cuda_graph,
            capture_async_graph=capture_async_graph,
            use_paged_engine=use_paged_engine,
            paged_gpu_memory_utilization=paged_gpu_memory_utilization,
            paged_enforce_eager=paged_enforce_eager,
        )
        self._optimize(options)
        return self

    def capture_codebook_cuda_graph(self, warmup_runs: int = 3) -> None:
        """Capture `code_predictor.generate_fast` as a CUDA graph. Raises ValueError without a GPU."""
        self.code_predictor.capture_codebook_cuda_graph(warmup_runs)

    def warmup_paged_engine(self) -> None:
        """Open the paged engine now instead of at its first use. Raises MemoryError."""
        self._paged.opened()
