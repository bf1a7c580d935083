"""The public Python API: the names, signatures and defaults of the reference package and of the seed, over our engine.

It differs from the reference on purpose in this: audio streams without windows or cross-fades and is exact at any
length; every item of a batch is what it would be alone; random draws follow `seed` and are other draws; control tokens
and leading blanks in texts are not read as such; an unknown keyword is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from .api_inputs import FromPretrained, StreamOptions, checked_sampling, numbered, pieces_of, spread, texts_of
from .audio import AudioSource, Samples, load_audio
from .checkpoint import find_checkpoint
from .clone_prompts import PrimedVoices, VoiceClonePromptItem, item_of, items_of, voice_of
from .core import Engine, Utterance
from .emission import WHOLE_CLIP_FRAMES, EmissionPlan
from .loaded import Loaded, load_checkpoint
from .prompt import PromptPlan
from .runner import Runner
from .sequence import Guards
from .shared_engine import SharedEngine
from .voice_prompt import VoicePrompt, make_voice_prompt

__all__ = ["Qwen3TTSModel", "VoiceClonePromptItem"]

FIRST_POSITIONS = 1024
NO_GUARDS = Guards(frames_per_text_id=0, min_frames=1 << 31, loop_frames=0)
WHOLE = EmissionPlan((WHOLE_CLIP_FRAMES,))

Waves: TypeAlias = tuple[list[Samples], int]
Chunks: TypeAlias = Generator[tuple[Samples, int], None, None]
Planned: TypeAlias = tuple[PromptPlan, VoicePrompt | None]
Batch: TypeAlias = str | list[str]
Audios: TypeAlias = AudioSource | list[AudioSource]
Pieces: TypeAlias = str | Iterable[str]


class Qwen3TTSModel:
    """A checkpoint that speaks. May be used from several threads, and with several streams open at once.

    Sampling keywords of every method: do_sample, temperature, top_k, top_p, the same with subtalker_ (and
    subtalker_dosample), repetition_penalty, repetition_penalty_window, min_new_tokens, max_new_tokens, seed. What is
    not given comes from the checkpoint's generation_config.json. `max_new_tokens` counts samples as the reference does:
    N without an end give N - 1 frames of 80 ms. Item n of a batch is drawn with `seed` + n.
    Errors: PromptError, SamplingError and AudioError are ValueErrors; EngineFailure is a RuntimeError.
    """

    def __init__(self, loaded: Loaded, options: FromPretrained) -> None:
        room = loaded.model.config.talker.max_positions
        bound, first = min(options.max_positions or room, room), options.max_positions or FIRST_POSITIONS
        runner = Runner(loaded.model, options.slots, bound, first)
        self.engine = SharedEngine(Engine(runner, loaded.tokenizer, NO_GUARDS))
        self.device = runner.device
        self.generate_defaults = loaded.generation
        self._model, self._planner = loaded.model, loaded.planner
        self._allow_url = options.allow_url
        self._rate = loaded.model.config.codec.sample_rate
        self._primed = PrimedVoices(lambda codes: self.engine.exclusively(partial(runner.prime, codes)))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Qwen3TTSModel:
        """Load a directory or hub id such as Qwen/Qwen3-TTS-12Hz-1.7B-Base.

        dtype or torch_dtype: of talker and code predictor; by default bfloat16 on a GPU, float32 on the CPU. The codec
        and the encoders are always float32. device_map or device: one device; by default the GPU if there is one.
        attn_implementation: accepted, no effect. revision, cache_dir, local_files_only: as on the hub.
        allow_url=False: whether recordings may be http(s) addresses. slots=8: how many sentences run together; more
        wait their turn. max_positions: a fixed bound on prompt + frames of one sentence; by default memory for 1024
        grows on demand to what the checkpoint allows (32768). Speech that reaches the bound ends with a fade.
        Raises CheckpointError; TypeError for an unknown keyword, ValueError for a bad value.
        """
        options = FromPretrained.read(kwargs)
        load = options.load_options()
        directory = find_checkpoint(str(pretrained_model_name_or_path), **options.where)
        return cls(load_checkpoint(directory, load), options)

    def create_voice_clone_prompt(
        self,
        ref_audio: Audios,
        ref_text: str | list[str | None] | None = None,
        x_vector_only_mode: bool | list[bool] = False,
    ) -> list[VoiceClonePromptItem]:
        """Hear recordings (path, base64, (samples, rate), URL if allowed) → an item each, to be used many times.

        ref_spk_embedding float32 [H], ref_code int64 [frames, 16]. Without x_vector_only_mode the words of each
        recording are needed. Each is encoded by itself. Raises AudioError, VoicePromptError; ValueError without words.
        """
        self._planner.require("base")
        audios = ref_audio if isinstance(ref_audio, list) else [ref_audio]
        words = spread("ref_text", ref_text, len(audios))
        alone = spread("x_vector_only_mode", x_vector_only_mode, len(audios))
        for index, (text, x_vector_only) in enumerate(zip(words, alone, strict=True)):
            if not x_vector_only and not text:
                raise ValueError(f"ref_text is required when x_vector_only_mode=False (recording {index})")
        return [self._hear(*each) for each in zip(audios, words, alone, strict=True)]

    def generate_voice_clone(
        self,
        text: Batch,
        language: Batch | None = None,
        ref_audio: Audios | None = None,
        ref_text: str | list[str | None] | None = None,
        x_vector_only_mode: bool | list[bool] = False,
        voice_clone_prompt: Any = None,
        non_streaming_mode: bool = False,
        **kwargs: Any,
    ) -> Waves:
        """Speak in the voice of a recording, or of a prompt made from one → (float32 [1920 · frames] each, 24000).

        Only a Base checkpoint can. Words and recording go on seamlessly: the codec starts where the recording ended.
        """
        texts = texts_of(text)
        items = self._items(voice_clone_prompt, ref_audio, ref_text, x_vector_only_mode)
        voices = [voice_of(item) for item in spread("voice_clone_prompt", items, len(texts))]
        languages = spread("language", language, len(texts))
        flowing = not non_streaming_mode
        planned = [self._clone(voice, lang, flowing) for voice, lang in zip(voices, languages, strict=True)]
        return self._speak(texts, planned, kwargs)

    def generate_custom_voice(
        self,
        text: Batch,
        speaker: Batch,
        language: Batch | None = None,
        instruct: str | list[str | None] | None = None,
        non_streaming_mode: bool = True,
        **kwargs: Any,
    ) -> Waves:
        """Speak as a preset speaker, on request in a manner → (float32 [1920 · frames] each, 24000).

        Only a CustomVoice checkpoint can; the 0.6B one ignores `instruct`.
        """
        texts = texts_of(text)
        given = {"speaker": speaker, "language": language, "instruct": instruct}
        choices = [spread(name, value, len(texts)) for name, value in given.items()]
        flowing = not non_streaming_mode
        planned = [(self._planner.custom_voice(*each, flowing=flowing), None) for each in zip(*choices, strict=True)]
        return self._speak(texts, planned, kwargs)

    def generate_voice_design(
        self,
        text: Batch,
        instruct: Batch,
        language: Batch | None = None,
        non_streaming_mode: bool = True,
        **kwargs: Any,
    ) -> Waves:
        """Speak in a voice described in words → (float32 [1920 · frames] each, 24000). For VoiceDesign checkpoints."""
        texts = texts_of(text)
        given = {"instruct": instruct, "language": language}
        choices = [spread(name, value, len(texts)) for name, value in given.items()]
        flowing = not non_streaming_mode
        planned = [(self._planner.voice_design(*each, flowing=flowing), None) for each in zip(*choices, strict=True)]
        return self._speak(texts, planned, kwargs)

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
        **kwargs: Any,
    ) -> Chunks:
        """Speak while the codes are made: yields (float32 [1920 · n], 24000), n = emit_every_frames but for the last.

        `text` may be an iterator of pieces: each is asked for only when nothing more can be said without it. The
        chunks put together are what `generate_voice_clone` gives. Closing or dropping the generator ends the job.

        With first_chunk_emit_every > 0, chunks have that many frames until first_chunk_frames are out. The penalty
        looks back over repetition_penalty_window samples (0: all, at most 512) and is off by default, as in the seed.
        decode_window_frames, overlap_samples, first_chunk_decode_window and use_optimized_decode have no effect: the
        incremental decode is exact, needs no window, and loses nothing at chunk borders. async_decode and
        use_paged_engine raise NotImplementedError. Source: the seed's function of this name; unlike there, speech has
        at least 2 frames (min_new_tokens) and max_new_tokens counts where it is given and smaller than max_frames.
        """
        given = locals()
        options = StreamOptions(**{field.name: given[field.name] for field in fields(StreamOptions)})
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
        return streams[self._planner.ids.kind](text, **kwargs)

    def get_supported_speakers(self) -> list[str]:
        """Preset speakers, sorted; none but in CustomVoice checkpoints."""
        return sorted(self._planner.ids.speakers)

    def get_supported_languages(self) -> list[str]:
        """Languages, "auto" among them, sorted."""
        return sorted(["auto", *(name for name in self._planner.ids.languages if "dialect" not in name)])

    def _hear(self, audio: AudioSource, text: str | None, x_vector_only: bool) -> VoiceClonePromptItem:
        samples = load_audio(audio, allow_url=self._allow_url)
        return item_of(make_voice_prompt(self._model, samples, None if x_vector_only else text), text)

    def _items(self, prompt: Any, ref_audio: Any, ref_text: Any, x_vector_only_mode: Any) -> list[Any]:
        if prompt is not None:
            return items_of(prompt)
        if ref_audio is None:
            raise ValueError("either voice_clone_prompt or ref_audio must be given")
        return self.create_voice_clone_prompt(ref_audio, ref_text, x_vector_only_mode)

    def _clone(self, voice: VoicePrompt, language: str | None, flowing: bool) -> Planned:
        width = self._model.talker.head.weight.shape[1]
        if len(voice.speaker) != width:  # found in a step, it would end everybody's speech
            raise ValueError(f"ref_spk_embedding has {len(voice.speaker)} numbers, not {width}: made by another model?")
        return self._planner.clone(voice.clone, language, flowing=flowing), voice

    def _utterance(self, planned: Planned, **how: Any) -> Utterance:
        plan, voice = planned
        if voice is None:
            return Utterance(plan, **how)
        return Utterance(plan, voice=voice.vectors, primed=self._primed.get(voice), **how)

    def _speak(self, texts: list[str], planned: Sequence[Planned], sampling: dict[str, Any]) -> Waves:
        drawn = checked_sampling(sampling, self.generate_defaults)
        utterances = [
            self._utterance(each, sampling=numbered(drawn, item), emission=WHOLE) for item, each in enumerate(planned)
        ]
        spoken = self.engine.speak(list(zip(utterances, texts, strict=True)))
        return [speech.wave.numpy() for speech in spoken], self._rate

    def _stream(self, text: Pieces, planned: Planned, options: StreamOptions, sampling: dict[str, Any]) -> Chunks:
        drawn = options.sampling(sampling, self.generate_defaults)
        utterance = self._utterance(planned, sampling=drawn, emission=options.emission)
        return self._chunks(utterance, pieces_of(text))

    def _chunks(self, utterance: Utterance, text: str | Iterator[str]) -> Chunks:
        with closing(self.engine.stream(utterance, text)) as made:
            for progress in made:
                if len(progress.wave):
                    yield progress.wave.numpy(), self._rate
