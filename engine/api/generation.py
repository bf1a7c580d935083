"""A checkpoint that speaks whole utterances: the names, signatures and defaults of the reference package."""

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
from .inputs import FromPretrained, checked_sampling, numbered, spread, texts_of
from .threaded_engine import EngineHandle, Planned

FIRST_POSITIONS = 1024
WHOLE = EmissionPlan((WHOLE_CLIP_FRAMES,))

Waves: TypeAlias = tuple[list[Samples], int]
Batch: TypeAlias = str | list[str]
Audios: TypeAlias = AudioSource | list[AudioSource]
Pieces: TypeAlias = str | Iterable[str]


class WholeSpeech:
    """Everything of the reference package. What holds for every method stands at `Qwen3TTSModel`."""

    def __init__(self, loaded: LoadedCheckpoint, options: FromPretrained) -> None:
        self.generate_defaults = loaded.generation
        self._loaded, self._options = loaded, options
        self._model, self._planner = loaded.model, loaded.planner
        self._rate = loaded.model.config.codec.sample_rate
        room = loaded.model.config.talker.max_positions
        self._room = min(options.max_positions or room, room)
        first = options.max_positions or FIRST_POSITIONS
        self._drive(Runner(loaded.model, options.slots, self._room, first))

    def _drive(self, runner: Runner) -> None:
        """Speak with this runner from now on."""
        self.device = runner.device
        self._driven = EngineHandle(runner, self._loaded.tokenizer)
        self.engine = self._driven.engine

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a directory or hub id such as Qwen/Qwen3-TTS-12Hz-1.7B-Base.

        dtype or torch_dtype: of talker and code predictor; by default bfloat16 on a GPU, float32 on the CPU. The codec
        and the encoders are always float32. device_map or device: one device; by default the GPU if there is one.
        attn_implementation: accepted, no effect. revision, cache_dir, local_files_only: as on the hub.
        allow_url=False: whether recordings may be http(s) addresses. slots=8: how many sentences run together; more
        wait their turn. max_positions: a fixed bound on prompt + frames of one sentence; by default memory for 1024
        grows on demand to what the checkpoint allows (32768). Speech that reaches the bound ends with a fade.
        codec_device: where streams with `async_decode` make their sound, for example a second GPU; by default here.
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
        return self._speak(texts, self._clones(len(texts), items, language, not non_streaming_mode), kwargs)

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
        return self._speak(texts, self._presets(len(texts), given, not non_streaming_mode), kwargs)

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
        return self._speak(texts, self._designs(len(texts), given, not non_streaming_mode), kwargs)

    @property
    def kind(self) -> str:
        """base, custom_voice or voice_design: which voices this checkpoint has."""
        return self._planner.ids.kind

    def get_supported_speakers(self) -> list[str]:
        """Preset speakers, sorted; none but in CustomVoice checkpoints."""
        return sorted(self._planner.ids.speakers)

    def get_supported_languages(self) -> list[str]:
        """Languages, "auto" among them, sorted."""
        return sorted(["auto", *(name for name in self._planner.ids.languages if "dialect" not in name)])

    def _hear(self, audio: AudioSource, text: str | None, x_vector_only: bool) -> VoiceClonePromptItem:
        samples = load_audio(audio, allow_url=self._options.allow_url)
        return item_of(make_voice_prompt(self._model, samples, None if x_vector_only else text), text)

    def _items(self, prompt: Any, ref_audio: Any, ref_text: Any, x_vector_only_mode: Any) -> list[Any]:
        if prompt is not None:
            return items_of(prompt)
        if ref_audio is None:
            raise ValueError("either voice_clone_prompt or ref_audio must be given")
        return self.create_voice_clone_prompt(ref_audio, ref_text, x_vector_only_mode)

    def _clones(self, count: int, items: list[Any], languages: Batch | None, flowing: bool) -> list[Planned]:
        voices = [voice_of(item) for item in spread("voice_clone_prompt", items, count)]
        each = zip(voices, spread("language", languages, count), strict=True)
        return [self._clone(voice, language, flowing) for voice, language in each]

    def _presets(self, count: int, given: dict[str, Any], flowing: bool) -> list[Planned]:
        """`given`: speaker, language and instruct, of each or for all."""
        choices = [spread(name, value, count) for name, value in given.items()]
        return [(self._planner.custom_voice(*each, flowing=flowing), None) for each in zip(*choices, strict=True)]

    def _designs(self, count: int, given: dict[str, Any], flowing: bool) -> list[Planned]:
        """`given`: instruct and language, of each or for all."""
        choices = [spread(name, value, count) for name, value in given.items()]
        return [(self._planner.voice_design(*each, flowing=flowing), None) for each in zip(*choices, strict=True)]

    def _clone(self, voice: VoicePrompt, language: str | None, flowing: bool) -> Planned:
        weight = self._model.talker.head.weight
        if len(voice.speaker) != weight.shape[1]:  # found in a step, it would end everybody's speech
            raise ValueError(
                f"ref_spk_embedding has {len(voice.speaker)} numbers, not {weight.shape[1]}: made by another model?"
            )
        if not voice.speaker.to(weight.dtype).isfinite().all():  # its slot would spoil whatever is spoken there later
            raise ValueError(f"ref_spk_embedding holds what is no number, or none that fits into {weight.dtype}")
        return self._planner.clone(voice.clone, language, flowing=flowing), voice

    def _speak(self, texts: list[str], planned: Sequence[Planned], sampling: dict[str, Any]) -> Waves:
        drawn = checked_sampling(sampling, self.generate_defaults, self._model.config.talker.vocab_size)
        utterances = [
            self._driven.utterance(each, sampling=numbered(drawn, item), emission=WHOLE)
            for item, each in enumerate(planned)
        ]
        spoken = self.engine.speak(list(zip(utterances, texts, strict=True)))
        return [speech.wave.numpy() for speech in spoken], self._rate
