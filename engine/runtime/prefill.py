"""Prefill inputs: the request, the chunks in which a prompt is processed, and the prompt's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.streaming import CodecSnapshot
from ..model.talker import Talker
from ..prompt.planner import Position, Prompt, ReferenceFrame, SpeakerVector
from ..prompt.sampling_params import SamplingParams
from .transfer import send, upload


@dataclass(frozen=True, slots=True)
class VoiceVectors:
    """What a cloned voice adds to its prompt: the x-vector [H] and the reference's codes [frames, 16]."""

    speaker: Tensor | None = None
    codes: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PrefillRequest:
    """A sequence that is about to start in `slot`."""

    slot: int
    prompt: Prompt
    voice: VoiceVectors
    sampling: SamplingParams
    seed: int
    primed: CodecSnapshot | None = None

    @property
    def first_text(self) -> int:
        """Text id of the prompt's last position, from which the first frame is generated."""
        return self.prompt.body[-1].text


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Inputs [T, H] of one slot, the first at position `start`."""

    inputs: Tensor
    slot: int
    start: int


class PromptEmbedder:
    """Computes the prompt embeddings of one talker."""

    def __init__(self, talker: Talker) -> None:
        self._talker, self._device = talker, talker.head.weight.device

    def embed(self, positions: Sequence[Position], voice: VoiceVectors) -> Tensor:
        """Return embeddings [T, H]: projected text at every position, plus codec embeddings where present."""
        text = self.text([position.text for position in positions])
        return self._talker.text(text) + self._codec_parts(positions, voice)

    def last_frame(self, position: Position, voice: VoiceVectors) -> Tensor:
        """Return the codec embedding [H] of a prompt's last position."""
        code = position.codec
        assert not isinstance(code, SpeakerVector | None), code
        return self._talker.codes.weight[code] if isinstance(code, int) else self._codec_parts([position], voice)[0]

    def text(self, ids: Sequence[int]) -> Tensor:
        """Return text in the form the decode step takes: ids on the device, or rows of a table in host memory."""
        words = self._talker.text
        if words.table.device == self._device:
            return self._index(ids)
        return send(words.rows(torch.tensor(ids)), self._device)

    def _codec_parts(self, positions: Sequence[Position], voice: VoiceVectors) -> Tensor:
        """Return the codec embeddings to add to the text: [T, H], zero at text-only positions."""
        codes = self._talker.codes
        parts = codes.weight.new_zeros(len(positions), codes.weight.shape[1])
        special = {n: p.codec for n, p in enumerate(positions) if isinstance(p.codec, int)}
        if special:
            parts.index_copy_(0, self._index([*special]), codes.group0(self._index([*special.values()])))
        frames = {n: p.codec.index for n, p in enumerate(positions) if isinstance(p.codec, ReferenceFrame)}
        if frames:
            assert voice.codes is not None, "a reference frame without a reference"
            reference = send(voice.codes[[*frames.values()]], self._device)
            parts.index_copy_(0, self._index([*frames]), codes(reference))
        for n, position in enumerate(positions):
            if isinstance(position.codec, SpeakerVector):
                assert voice.speaker is not None, "a speaker position without an x-vector"
                parts[n] = send(voice.speaker, self._device)
        return parts

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return upload(numbers, self._device)
