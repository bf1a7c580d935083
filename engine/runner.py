"""The tensors of all running sequences, a row per slot, and the few calls that move them on.

Everything a step needs is on the device in buffers that never move: the host sends slots and text ids, and reads the
codes of the frame back once. So a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .model.speech_model import SpeechModel
from .model.streaming import CodecSnapshot
from .model.talker import Rows
from .prompt import Position, ReferenceFrame, SpeakerVector
from .sampling import CodeRules, Sampler, SamplerLimits
from .sampling_params import SamplingParams

LENGTH_STEP = 256
"""Attention reads a multiple of this many positions, so that there are few shapes."""


@dataclass(frozen=True, slots=True)
class VoiceVectors:
    """What a cloned voice adds to its prompt: x-vector [H], and the reference's codes [frames, 16]."""

    speaker: Tensor | None = None
    codes: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One sequence about to begin in `slot`."""

    slot: int
    positions: tuple[Position, ...]
    voice: VoiceVectors
    sampling: SamplingParams
    seed: int
    primed: CodecSnapshot | None = None


class Runner:
    """Talker, code predictor and codec over static slots.

    Every slot can hold `max_positions`. With `first_positions` memory is taken for that many at first, and for twice
    as many whenever a sequence outgrows them.
    """

    @torch.inference_mode()
    def __init__(self, model: SpeechModel, slots: int, max_positions: int, first_positions: int | None = None) -> None:
        self.model, self.slots, self.max_positions = model, slots, max_positions
        talker, config = model.talker, model.config.talker
        weight = talker.head.weight
        self.device = weight.device
        self.frame_samples = model.decoder.frame_samples
        self._cache = talker.allocate(slots, min(first_positions or max_positions, max_positions))
        self._frame_cache = model.code_predictor.allocate(slots)
        self._codec = model.decoder.allocate(slots + 1)  # the last one primes voices
        rules = CodeRules(
            vocab=config.vocab_size,
            eos=config.ids.eos,
            predictor_vocab=model.config.code_predictor.vocab_size,
            code_groups=config.code_groups,
        )
        self._sampler = Sampler(slots, rules, SamplerLimits(), self.device)
        self._frame = weight.new_zeros(slots, weight.shape[1])  # [slots, H] embedding of each slot's last frame
        self._next = torch.zeros(slots, dtype=torch.int64, device=self.device)  # [slots] position of the next input
        self._length = [0] * slots  # the same on the host, to choose how many positions attention reads

    @torch.inference_mode()
    def begin(self, entries: Sequence[Entry]) -> Tensor:
        """Prefill prompts, together and unpadded to each other's eyes, and make their first frames: codes [B, 16]."""
        inputs = [self._embed(entry) for entry in entries]  # [T_b, H] each
        lengths = torch.tensor([len(each) for each in inputs], device=self.device)
        slots = self._index([entry.slot for entry in entries])
        for entry, each in zip(entries, inputs, strict=True):
            self._sampler.join(entry.slot, entry.sampling, entry.seed)
            self._length[entry.slot] = len(each)
            self._start_codec(entry.slot, entry.primed)
        batch = pad_sequence(inputs, batch_first=True)  # [B, T, H]
        self._reserve(batch.shape[1])
        self._next[slots] = lengths
        starts = torch.zeros_like(lengths)
        rows = Rows(slots, starts, self._bucket(batch.shape[1]))
        hidden, logits = self.model.talker.prefill(batch, self._cache, rows, lengths)
        return self._make_frame(hidden, logits, slots)

    @torch.inference_mode()
    def advance(self, slots: Sequence[int], text_ids: Sequence[int]) -> Tensor:
        """The next frame of running sequences, each with its next text id: codes [B, 16]."""
        talker, index = self.model.talker, self._index(slots)
        inputs = self._frame[index] + talker.text(torch.tensor(text_ids))  # [B, H]
        length = 1 + max(self._length[slot] for slot in slots)
        self._reserve(length)
        rows = Rows(index, self._next[index], self._bucket(length))
        hidden, logits = talker.step(inputs, self._cache, rows)
        self._next.index_add_(0, index, torch.ones_like(index))
        for slot in slots:
            self._length[slot] += 1
        return self._make_frame(hidden, logits, index)

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], codes: Tensor) -> Tensor:
        """The next frames of these slots' streams: codes [B, 16, T] → float32 [B, 1920 · T] on the host."""
        wave = self.model.decoder.step(codes.to(self.device), self._index(slots), self._codec)
        return wave.float().cpu()

    @torch.inference_mode()
    def prime(self, codes: Tensor) -> CodecSnapshot:
        """The codec's state after a reference's codes [frames, 16], for streams that continue it."""
        spare = self._index([self.slots])
        self._codec.reset(spare)
        self.model.decoder.step(codes.T[None].to(self.device), spare, self._codec)
        return self._codec.snapshot(self.slots)

    def room(self, slot: int) -> int:
        """How many positions a slot has left."""
        return self.max_positions - self._length[slot]

    def _start_codec(self, slot: int, primed: CodecSnapshot | None) -> None:
        if primed is None:
            self._codec.reset(self._index([slot]))
        else:
            self._codec.restore(slot, primed)

    def _make_frame(self, hidden: Tensor, logits: Tensor, slots: Tensor) -> Tensor:
        sampler = self._sampler
        first = sampler.talker(logits, slots, torch.ones_like(slots, dtype=torch.bool))
        noise = sampler.predictor_noise(slots)  # [B, 15, 2048]

        def choose(scores: Tensor, group: int) -> Tensor:
            return sampler.predictor(scores, slots, noise[:, group - 1])

        codes = self.model.code_predictor.frame(hidden, first, self._frame_cache, choose)  # [B, 16]
        self._frame.index_copy_(0, slots, self.model.talker.codes(codes))
        return codes

    def _embed(self, entry: Entry) -> Tensor:
        """A prompt's embeddings [T, H]: projected text everywhere, plus the codec part where there is one."""
        talker, positions = self.model.talker, entry.positions
        inputs = talker.text(torch.tensor([position.text for position in positions]))
        marks = [(n, position.codec) for n, position in enumerate(positions) if isinstance(position.codec, int)]
        frames = [(n, p.codec.index) for n, p in enumerate(positions) if isinstance(p.codec, ReferenceFrame)]
        if marks:
            places, ids = zip(*marks, strict=True)
            inputs[list(places)] += talker.codes.mark(self._index(ids))
        if frames:
            assert entry.voice.codes is not None, "a reference frame without a reference"
            places, indices = zip(*frames, strict=True)
            inputs[list(places)] += talker.codes(entry.voice.codes[list(indices)].to(self.device))
        for n, position in enumerate(positions):
            if isinstance(position.codec, SpeakerVector):
                assert entry.voice.speaker is not None, "a speaker position without an x-vector"
                inputs[n] += entry.voice.speaker.to(inputs)
        return inputs

    def _reserve(self, length: int) -> None:
        size = self._cache.max_positions
        while size < length:
            size = min(2 * size, self.max_positions)
        if size > self._cache.max_positions:
            self._cache = self.model.talker.enlarged(self._cache, size)

    def _bucket(self, length: int) -> int:
        return min(self._cache.max_positions, -(-length // LENGTH_STEP) * LENGTH_STEP)

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int64, device=self.device)
