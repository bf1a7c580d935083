"""Sound out of codes, for streams that do not take it from the engine: in windows, or beside it on another device."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from ..model.codec_decoder import CodecDecoder
from ..model.streaming import CodecState
from ..scheduler.job import RUNAWAY, ChunkOutput, faded
from .stream_options import WindowPlan

Decode = Callable[[Tensor], Tensor]
"""Codes [16, n] on the host → a wave [1920 · n] there, the first frame being the beginning of everything."""


class Sound(Protocol):
    """What makes one stream's chunks, in order."""

    def take(self, part: ChunkOutput) -> Tensor:
        """What can be heard now: float32 on the host."""


class StepSound:
    """Frame by frame and exactly, as the engine's own codec does it; `reference` codes [frames, 16] come before."""

    def __init__(self, decoder: CodecDecoder, reference: Tensor | None) -> None:
        self._decoder, self._reference = decoder, reference
        self._device = decoder.quantizer.table.device
        self._state: CodecState | None = None  # allocated by the thread, and on the stream, that decodes

    @torch.inference_mode()
    def take(self, part: ChunkOutput) -> Tensor:
        if self._state is None:
            self._state = self._decoder.allocate(1)
            if self._reference is not None:
                self._step(self._reference.T, self._state)
        wave = self._step(part.codes, self._state) if part.codes.shape[1] else torch.empty(0)
        return _ended(wave, part, self._decoder.frame_samples)

    def _step(self, codes: Tensor, state: CodecState) -> Tensor:
        slot = torch.zeros(1, dtype=torch.int64, device=self._device)
        wave = self._decoder.step(codes[None].to(self._device), slot, state)[0]
        return wave.float().cpu()


class WindowSound:
    """Each chunk decoded anew together with some frames before it, and blended into what its predecessor made of these.

    The last `overlap` samples of a chunk are held back: the next window renders the same samples once more, and one
    rendering fades into the other there (Hann). So every sample keeps its place, and none is lost or heard twice. The
    frames before a chunk are real ones, at the beginning those of the `reference` [frames, 16], or there are none.
    """

    def __init__(self, decode: Decode, plan: WindowPlan, reference: Tensor | None, frame_samples: int) -> None:
        self._decode, self._plan, self._frame_samples = decode, plan, frame_samples
        self._codes = torch.empty(16, 0, dtype=torch.int64) if reference is None else reference.T
        self._held = torch.empty(0)
        self._chunk = 0

    @torch.inference_mode()
    def take(self, part: ChunkOutput) -> Tensor:
        wave = self._rendered(part.codes) if part.codes.shape[1] else self._held
        if self._chunk == 0:
            wave = risen(wave, self._plan.overlap)
        self._chunk += 1
        if part.ended:
            self._held = torch.empty(0)
            return _ended(faded(wave, self._plan.overlap), part, self._frame_samples)
        kept = len(wave) - self._plan.overlap
        self._held = wave[kept:]
        return wave[:kept]

    def _rendered(self, codes: Tensor) -> Tensor:
        """The samples held back, blended, and those of the new frames."""
        self._codes = torch.cat((self._codes, codes), dim=1)[:, -self._plan.longest :]
        wave = self._decode(self._codes[:, -self._plan.frames(self._chunk) :])
        start = len(wave) - codes.shape[1] * self._frame_samples - len(self._held)
        assert start >= 0, (codes.shape, wave.shape, self._held.shape)
        return blended(self._held, wave[start:])


def blended(old: Tensor, new: Tensor) -> Tensor:
    """`new` [n], whose first samples fade in while `old` [m], another rendering of the same samples, fades out."""
    count = len(old)
    mixed = old * (1 - _rise(count)) + new[:count] * _rise(count)
    return torch.cat((mixed, new[count:]))


def risen(wave: Tensor, samples: int) -> Tensor:
    """The wave with its first `samples` samples rising from silence along a half cosine."""
    count = min(samples, len(wave))
    return torch.cat((wave[:count] * _rise(count), wave[count:]))


def _rise(count: int) -> Tensor:
    return 0.5 * (1 - torch.cos(torch.linspace(0, torch.pi, count)))


def _ended(wave: Tensor, part: ChunkOutput, frame_samples: int) -> Tensor:
    """What the engine does with its own sound: a runaway's end is faded."""
    return faded(wave, frame_samples) if part.ended and part.cut in RUNAWAY else wave


Round = list[ChunkOutput | None]
"""What one moment brings for each stream of a batch."""


WaveStream = Generator[list[Tensor], None, None]


def sounded(rounds: Iterator[Round], sounds: Sequence[Sound] | None = None) -> WaveStream:
    """The waves of each round, nothing where there is nothing; by `sounds` where they do not come from the engine."""
    return (_made(each, sounds) for each in rounds)


def sounded_beside(rounds: Iterator[Round], sounds: Sequence[Sound], prepare: Callable[[], None]) -> WaveStream:
    """The same in a thread of its own, while the next round's frames are made; each round comes one round later.

    `prepare` is called in that thread before anything else. Leaving waits for no sound that is being made.
    """
    thread = ThreadPoolExecutor(1, "codec", prepare)
    try:
        waiting: Future[list[Tensor]] | None = None
        for each in rounds:
            following = thread.submit(_made, each, sounds)
            if waiting:
                yield waiting.result()
            waiting = following
        if waiting:
            yield waiting.result()
    finally:
        # The collector may end this in a thread that holds a lock the sound waits for, or in that thread itself.
        thread.shutdown(wait=False, cancel_futures=True)


def _made(parts: Round, sounds: Sequence[Sound] | None) -> list[Tensor]:
    if sounds is None:
        return [torch.empty(0) if part is None else part.wave for part in parts]
    pairs = zip(parts, sounds, strict=True)
    return [torch.empty(0) if part is None else sound.take(part) for part, sound in pairs]
