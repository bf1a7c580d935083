"""Prompts as plans: which embeddings are at which position, decided without a single tensor.

Every prompt is a text-independent prefix, whose KV can be kept, and a body that depends on the text. While the text
is still being written, the ids that do not fit into the prompt follow one a frame; then tts_eos, then tts_pad.
All four kinds of prompt come from two rules (`PromptPlan.begin`), because speech without a reference recording is
the same as speech after a reference of no frames and no text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .languages import PromptError, follows_instruct, require_words, resolve_language, resolve_speaker


@dataclass(frozen=True, slots=True)
class SpeakerVector:
    """The cloned voice's x-vector, standing where a codec embedding would."""


@dataclass(frozen=True, slots=True)
class ReferenceFrame:
    """The sum of the 16 embeddings of one frame of the reference recording."""

    index: int


Codec: TypeAlias = int | SpeakerVector | ReferenceFrame


@dataclass(frozen=True, slots=True)
class Position:
    """One position's embedding: the projected text id, plus the codec part where there is one."""

    text: int
    codec: Codec | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What prefill needs, and the text ids known by then that are still to come, one a frame.

    `ended`: `trailing` is complete (tts_eos included, here or in the body) and only tts_pad follows it.
    The body always holds at least the last position, so that a cached prefix never has to carry logits.
    """

    prefix: tuple[Position, ...]
    prefix_key: str
    body: tuple[Position, ...]
    trailing: tuple[int, ...]
    ended: bool

    @property
    def head(self) -> tuple[Position, ...]:
        return self.prefix + self.body


@dataclass(frozen=True, slots=True)
class PromptIds:
    """The ids and names of one checkpoint that prompts are made of."""

    kind: str  # base, custom_voice or voice_design
    size: str  # 0b6 or 1b7
    im_start: int
    im_end: int
    assistant: int
    tts_bos: int
    tts_eos: int
    tts_pad: int
    codec_pad: int
    codec_bos: int
    codec_think: int
    codec_nothink: int
    codec_think_bos: int
    codec_think_eos: int
    languages: Mapping[str, int]
    speakers: Mapping[str, int]
    dialects: Mapping[str, str | bool]  # of each speaker; False without a dialect

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PromptIds:
        """Pick the ids out of a checkpoint's config.json. Raises PromptError where one is missing."""
        try:
            talker = config["talker_config"]
            text = {
                name: config[f"{name}_token_id"]
                for name in ("im_start", "im_end", "assistant", "tts_bos", "tts_eos", "tts_pad")
            }
            tags = ("pad", "bos", "think", "nothink", "think_bos", "think_eos")
            return cls(
                kind=config["tts_model_type"],
                size=config["tts_model_size"],
                **text,
                **{f"codec_{tag}": talker[f"codec_{tag}_id"] for tag in tags},
                languages={key.lower(): value for key, value in talker["codec_language_id"].items()},
                speakers={key.lower(): value for key, value in (talker.get("spk_id") or {}).items()},
                dialects={key.lower(): value for key, value in (talker.get("spk_is_dialect") or {}).items()},
            )
        except KeyError as error:
            raise PromptError(f"config.json lacks {error}: not a Qwen3-TTS 12 Hz checkpoint") from error


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording to continue in the same voice: its words and, by digest, its codes."""

    text: str
    frames: int
    digest: str


@dataclass(frozen=True, slots=True)
class CloneVoice:
    """A cloned voice: its x-vector by content digest and, for in-context cloning, the reference."""

    speaker_digest: str
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Everything about a prompt but the text. Its prefix can be prefilled before the first word is known.

    `ids_needed` text ids must be known before prefill, or the whole text: with a reference the prompt pairs text
    with reference frames, so it cannot begin before the text has outgrown them or has ended. None: the whole text.
    """

    prefix: tuple[Position, ...]
    prefix_key: str
    ids_needed: int | None
    shared: int  # how many of the text/codec pairs are already in the prefix
    reference_text: tuple[int, ...]
    codecs: tuple[Codec, ...]  # codec_bos, then the reference frames
    ids: PromptIds

    def ready(self, count: int, ended: bool) -> bool:
        """Whether `count` text ids are enough to begin."""
        return ended or (self.ids_needed is not None and count >= self.ids_needed)

    def positions(self, count: int, ended: bool) -> int:
        """How long the prompt of `count` text ids is."""
        body = len(self.codecs) - self.shared
        if self.ids_needed is None:
            body += len(self.reference_text) + count + ended
        return len(self.prefix) + body

    def begin(self, text_ids: Sequence[int], ended: bool) -> Prompt:
        """Make the prompt of a text, or of its beginning. Raises PromptError for an empty text.

        Ids that come later are appended to `trailing` in order, and tts_eos when the text ends; the positions and
        ids are then the same as for the whole text.
        """
        if ended and not text_ids:
            raise PromptError("the text is empty")
        assert self.ready(len(text_ids), ended), (len(text_ids), self.ids_needed)
        text = [*self.reference_text, *text_ids, *([self.ids.tts_eos] if ended else [])]
        body, trailing = self._streamed(text) if self.ids_needed is not None else self._whole(text)
        return Prompt(self.prefix, self.prefix_key, body, trailing, ended)

    def _streamed(self, text: list[int]) -> tuple[tuple[Position, ...], tuple[int, ...]]:
        """Text and codecs side by side; text that is left over trails behind."""
        size = len(self.codecs)
        beside = text[:size] + [self.ids.tts_pad] * (size - len(text))
        pairs = [Position(*pair) for pair in zip(beside, self.codecs, strict=True)]
        return tuple(pairs[self.shared :]), tuple(text[size:])

    def _whole(self, text: list[int]) -> tuple[tuple[Position, ...], tuple[int, ...]]:
        """The text over codec_pad, then the codecs over tts_pad; nothing trails."""
        words = [Position(one, self.ids.codec_pad) for one in text]
        speech = [Position(self.ids.tts_pad, codec) for codec in self.codecs]
        return tuple([*words, *speech][self.shared :]), ()


class PromptPlanner:
    """Plans prompts for one checkpoint; rejects what it cannot speak with an error that lists what it can."""

    def __init__(self, ids: PromptIds, encode: Callable[[str], Sequence[int]]) -> None:
        self.ids = ids
        self._encode = encode
        self._line_end = _single(encode("\n"), "the line end")
        if list(encode("assistant")) != [ids.assistant]:
            raise PromptError(f"the tokenizer does not fit config.json: 'assistant' is not the id {ids.assistant}")

    @property
    def instructable(self) -> bool:
        """Whether an instruct changes anything."""
        return follows_instruct(self.ids.kind, self.ids.size)

    def custom_voice(
        self, speaker: str | None, language: str | None = None, instruct: str | None = None, *, streaming: bool = True
    ) -> PromptPlan:
        """A preset speaker. `streaming`: the text is fed step by step. An instruct to a 0.6B model is dropped."""
        self.require("custom_voice")
        name = resolve_speaker(speaker, self.ids.speakers)
        tags = self._codec_tags(self._language_id(language, self.ids.dialects.get(name, False)))
        tags.append(self.ids.speakers[name])
        return self._plan(tags, instruct if self.instructable else None, streaming)

    def voice_design(self, instruct: str | None, language: str | None = None, *, streaming: bool = True) -> PromptPlan:
        """A voice described in words."""
        self.require("voice_design")
        return self._plan(self._codec_tags(self._language_id(language)), instruct, streaming)

    def clone(
        self, voice: CloneVoice, language: str | None = None, instruct: str | None = None, *, streaming: bool = True
    ) -> PromptPlan:
        """A cloned voice, from its x-vector alone or, with a reference, by continuing that recording."""
        self.require("base")
        if instruct and instruct.strip():
            raise PromptError("a cloned voice takes no instruct: use a CustomVoice or VoiceDesign checkpoint")
        tags = [*self._codec_tags(self._language_id(language)), SpeakerVector()]
        return self._plan(tags, None, streaming, voice)

    def require(self, kind: str) -> None:
        if self.ids.kind != kind:
            raise PromptError(f"this needs a {kind} checkpoint, but the loaded one is {self.ids.kind}")

    def _language_id(self, language: str | None, dialect: str | bool = False) -> int | None:
        name = resolve_language(language, self.ids.languages)
        if isinstance(dialect, str) and name in (None, "chinese"):
            name = dialect
        return None if name is None else self.ids.languages[name]

    def _codec_tags(self, language_id: int | None) -> list[Codec]:
        ids = self.ids
        if language_id is None:
            return [ids.codec_nothink, ids.codec_think_bos, ids.codec_think_eos]
        return [ids.codec_think, ids.codec_think_bos, language_id, ids.codec_think_eos]

    def _plan(
        self, tags: list[Codec], instruct: str | None, streaming: bool, voice: CloneVoice | None = None
    ) -> PromptPlan:
        ids, reference = self.ids, voice.reference if voice else None
        spoken = self._reference_ids(reference) if reference else ()
        codecs: list[Codec] = [ids.codec_bos, *map(ReferenceFrame, range(reference.frames if reference else 0))]
        # One position at least stays out of the prefix: prefill must end on it to have logits.
        shared = min(len(spoken), len(codecs) - 1) if streaming else len(spoken)
        pairs = zip(spoken, codecs if streaming else [ids.codec_pad] * shared, strict=False)
        prefix = (
            *map(Position, self._instruct_ids(instruct)),
            *map(Position, (ids.im_start, ids.assistant, self._line_end)),
            *(Position(ids.tts_pad, tag) for tag in tags),
            Position(ids.tts_bos, ids.codec_pad),
            *[Position(*pair) for pair in pairs][:shared],
        )
        needed = max(1, len(codecs) - len(spoken)) if streaming else None
        return PromptPlan(prefix, _prefix_key(prefix, voice), needed, shared, spoken, tuple(codecs), ids)

    def _reference_ids(self, reference: Reference) -> tuple[int, ...]:
        text = reference.text.lstrip()
        if not text:
            raise PromptError("a reference recording needs its words (ref_text); without them use the x-vector alone")
        if reference.frames < 1:
            raise PromptError("the reference recording is empty")
        return tuple(self._encode(text))

    def _instruct_ids(self, instruct: str | None) -> list[int]:
        require_words("instruct", instruct)
        words = (instruct or "").lstrip()
        if not words:
            return []
        ids, line_end = self.ids, self._line_end
        return [ids.im_start, *self._encode("user"), line_end, *self._encode(words), ids.im_end, line_end]


def content_digest(*parts: bytes) -> str:
    """A name for content (an x-vector's or reference codes' bytes, with dtype and shape) that only it can have."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _prefix_key(prefix: tuple[Position, ...], voice: CloneVoice | None) -> str:
    """Equal for equal embeddings only: a vector is represented by the digest of its content."""
    reference = voice.reference.digest if voice and voice.reference else ""
    speaker = voice.speaker_digest if voice else ""
    return content_digest(repr(prefix).encode(), speaker.encode(), reference.encode())


def _single(found: Sequence[int], what: str) -> int:
    if len(found) != 1:
        raise PromptError(f"the tokenizer does not fit the prompts: {what} must be one id, not {list(found)}")
    return found[0]
