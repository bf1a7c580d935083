"""Methods that return whole speech: the names, signatures and defaults of the reference package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from ..checkpoint.load import find_checkpoint
from ..checkpoint.loaded import LoadedCheckpoint, load_checkpoint
from ..runtime.model_runner import Runner
from ..scheduler.chunking import WHOLE_CLIP_FRAMES, EmissionPlan
from ..voices.audio import AudioSource, Samples, load_audio
from ..voices.prompt import VoicePrompt, make_voice_prompt
from .clone_prompts import VoiceClonePromptItem, item_of, items_of, voice_of
from .inputs import FromPretrained, broadcast, checked_sampling, texts_of
from .threaded_engine import EngineHandle, GenerationOptions, PlannedPrompt

FIRST_POSITIONS = 1024
WHOLE = EmissionPlan((WHOLE_CLIP_FRAMES,))

Waves: TypeAlias = tuple[list[Samples], int]
Batch: TypeAlias = str | list[str]
Audios: TypeAlias = AudioSource | list[AudioSource]
TextInput: TypeAlias = str | Iterable[str]
"""A whole text, or the pieces that it is written in."""


class Generation:
    """The methods of the reference package. Sampling keywords and errors are documented at `Qwen3TTSModel`."""

    def __init__(self, loaded: LoadedCheckpoint, options: FromPretrained) -> None:
        self.generate_defaults = loaded.generation
        self._loaded, self._options = loaded, options
        self._model, self._planner = loaded.model, loaded.planner
        self._rate = loaded.model.config.codec.sample_rate
        room = loaded.model.config.talker.max_positions
        self._room = min(options.max_positions or room, room)
        first = options.max_positions or FIRST_POSITIONS
        self._use_runner(Runner(loaded.model, options.slots, self._room, first))

    def _use_runner(self, runner: Runner) -> None:
        """Synthesize with this runner from now on."""
        self.device = runner.device
        self._handle = EngineHandle(runner, self._loaded.tokenizer)
        self.engine = self._handle.engine

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a checkpoint from a directory or a hub id such as Qwen/Qwen3-TTS-12Hz-1.7B-Base.

        dtype or torch_dtype: of talker and code predictor; by default bfloat16 on a GPU, float32 on the CPU. The codec
        and the encoders are always float32. device_map or device: one device; by default the GPU if there is one.
        attn_implementation: accepted, without effect. revision, cache_dir, local_files_only: as on the hub.
        allow_url=False: whether recordings may be http(s) URLs. slots=8: how many texts are synthesized at a time;
        more wait in a queue. max_positions: a fixed bound on prompt + frames of one text; by default memory for 1024
        positions grows on demand up to what the checkpoint allows (32768). Speech that reaches the bound is faded out.
        codec_device: where streams with `async_decode` are decoded, for example a second GPU; by default here.

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
        """Encode reference recordings into clone prompts, one each, to be reused for any number of texts.

        A recording is a path, base64, (samples, rate) or, if allowed, a URL. Items hold ref_spk_embedding float32 [H]
        and ref_code int64 [frames, 16]. Unless x_vector_only_mode, the transcript of each recording is required.
        Recordings are encoded one by one. Raises AudioError, VoicePromptError; ValueError without a transcript.
        """
        self._planner.require("base")
        audios = ref_audio if isinstance(ref_audio, list) else [ref_audio]
        transcripts = broadcast("ref_text", ref_text, len(audios))
        x_vector_only_modes = broadcast("x_vector_only_mode", x_vector_only_mode, len(audios))
        for index, (text, x_vector_only) in enumerate(zip(transcripts, x_vector_only_modes, strict=True)):
            if not x_vector_only and not text:
                raise ValueError(f"ref_text is required when x_vector_only_mode=False (recording {index})")
        return [self._encode_recording(*each) for each in zip(audios, transcripts, x_vector_only_modes, strict=True)]

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
        """Synthesize in the voice of a recording, or of a prompt made from one → (float32 [1920 · frames] each, 24000).

        Requires a Base checkpoint. With a transcript the codec continues from its state at the recording's end.
        """
        texts = texts_of(text)
        items = self._items(voice_clone_prompt, ref_audio, ref_text, x_vector_only_mode)
        return self._synthesize(texts, self._plan_clones(len(texts), items, language, not non_streaming_mode), kwargs)

    def generate_custom_voice(
        self,
        text: Batch,
        speaker: Batch,
        language: Batch | None = None,
        instruct: str | list[str | None] | None = None,
        non_streaming_mode: bool = True,
        **kwargs: Any,
    ) -> Waves:
        """Synthesize with a preset speaker, in the style of `instruct` → (float32 [1920 · frames] each, 24000).

        Requires a CustomVoice checkpoint; the 0.6B one ignores `instruct`.
        """
        texts = texts_of(text)
        prompts = self._plan_presets(len(texts), speaker, language, instruct, not non_streaming_mode)
        return self._synthesize(texts, prompts, kwargs)

    def generate_voice_design(
        self,
        text: Batch,
        instruct: Batch,
        language: Batch | None = None,
        non_streaming_mode: bool = True,
        **kwargs: Any,
    ) -> Waves:
        """Synthesize in a voice described by `instruct` → (float32 [1920 · frames] each, 24000).

        Requires a VoiceDesign checkpoint.
        """
        texts = texts_of(text)
        prompts = self._plan_designs(len(texts), instruct, language, not non_streaming_mode)
        return self._synthesize(texts, prompts, kwargs)

    @property
    def kind(self) -> str:
        """The kind of checkpoint: base, custom_voice or voice_design."""
        return self._planner.ids.kind

    def get_supported_speakers(self) -> list[str]:
        """Return the preset speakers, sorted; empty unless this is a CustomVoice checkpoint."""
        return sorted(self._planner.ids.speakers)

    def get_supported_languages(self) -> list[str]:
        """Return the languages and "auto", sorted."""
        return sorted(["auto", *(name for name in self._planner.ids.languages if "dialect" not in name)])

    def _encode_recording(self, audio: AudioSource, text: str | None, x_vector_only: bool) -> VoiceClonePromptItem:
        samples = load_audio(audio, allow_url=self._options.allow_url)
        return item_of(make_voice_prompt(self._model, samples, None if x_vector_only else text), text)

    def _items(self, prompt: Any, ref_audio: Any, ref_text: Any, x_vector_only_mode: Any) -> list[Any]:
        if prompt is not None:
            return items_of(prompt)
        if ref_audio is None:
            raise ValueError("either voice_clone_prompt or ref_audio must be given")
        return self.create_voice_clone_prompt(ref_audio, ref_text, x_vector_only_mode)

    def _plan_clones(
        self, count: int, items: list[Any], languages: Batch | None, streaming: bool
    ) -> list[PlannedPrompt]:
        voices = [voice_of(item) for item in broadcast("voice_clone_prompt", items, count)]
        pairs = zip(voices, broadcast("language", languages, count), strict=True)
        return [self._plan_clone(voice, language, streaming) for voice, language in pairs]

    def _plan_presets(
        self, count: int, speakers: Batch, languages: Batch | None, instructs: Any, streaming: bool
    ) -> list[PlannedPrompt]:
        rows = zip(
            broadcast("speaker", speakers, count),
            broadcast("language", languages, count),
            broadcast("instruct", instructs, count),
            strict=True,
        )
        return [PlannedPrompt(self._planner.custom_voice(*row, streaming=streaming)) for row in rows]

    def _plan_designs(
        self, count: int, instructs: Batch, languages: Batch | None, streaming: bool
    ) -> list[PlannedPrompt]:
        rows = zip(broadcast("instruct", instructs, count), broadcast("language", languages, count), strict=True)
        return [PlannedPrompt(self._planner.voice_design(*row, streaming=streaming)) for row in rows]

    def _plan_clone(self, voice: VoicePrompt, language: str | None, streaming: bool) -> PlannedPrompt:
        """Raises ValueError for an embedding that would fail in a step, which would end every running job."""
        weight = self._model.talker.head.weight
        if len(voice.speaker) != weight.shape[1]:
            raise ValueError(
                f"ref_spk_embedding has {len(voice.speaker)} numbers, not {weight.shape[1]}: made by another model?"
            )
        if not voice.speaker.to(weight.dtype).isfinite().all():  # NaN would stay in the slot's cache
            raise ValueError(f"ref_spk_embedding has NaN or numbers out of the range of {weight.dtype}")
        return PlannedPrompt(self._planner.clone(voice.clone, language, streaming=streaming), voice)

    def _synthesize(self, texts: list[str], prompts: Sequence[PlannedPrompt], sampling: dict[str, Any]) -> Waves:
        drawn = checked_sampling(sampling, self.generate_defaults, self._model.config.talker.vocab_size)
        requests = self._handle.requests(prompts, GenerationOptions(sampling=drawn, emission=WHOLE))
        speech = self.engine.synthesize(list(zip(requests, texts, strict=True)))
        return [each.wave.numpy() for each in speech], self._rate
