"""The streaming codec as the runner uses it: codes from a ring on the device, streams at independent positions."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..model.codec_decoder import CodecDecoder
from ..model.config import CODEC_STEP_FRAMES
from ..model.streaming import CodecSnapshot, EagerSnapshot

Snapshot = TypeVar("Snapshot", bound=CodecSnapshot)


class StreamingCodec(Protocol[Snapshot]):
    """A codec with one stream per slot; the last slot is a spare for padding."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Step sizes in frames, in descending order down to 1; other lengths are sums of these."""

    def step(self, codes: Tensor, starts: Tensor, slots: Tensor, frames: int) -> Tensor:
        """Decode the next frames of slots [B] → float32 [B, 1920 · frames].

        Row b's codes are read from position starts[b] on in the ring `codes` [slots, R, 16].
        """

    def reset(self, slot: int) -> None:
        """Start a new stream in a slot."""

    def prime(self, codes: Tensor) -> Snapshot:
        """Return the state after a reference's codes [frames, 16]; uses the spare slot."""

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """Restore one slot's state from a snapshot."""


class EagerCodec:
    """The codec in eager torch, on any device and in any dtype."""

    sizes = (CODEC_STEP_FRAMES, 16, 8, 4, 2, 1)

    def __init__(self, decoder: CodecDecoder, slots: int) -> None:
        self._decoder, self._spare = decoder, slots - 1
        self._state = decoder.allocate(slots, self.sizes[0])

    def step(self, codes: Tensor, starts: Tensor, slots: Tensor, frames: int) -> Tensor:
        places = (starts.unsqueeze(1) + torch.arange(frames, device=codes.device)) % codes.shape[1]
        rows = codes[slots.unsqueeze(1), places]  # [B, frames, 16]
        return self._decoder.step(rows.mT, slots, self._state).float()

    def reset(self, slot: int) -> None:
        self._state.reset(torch.full((1,), slot, device=self._state.frames.device))

    def prime(self, codes: Tensor) -> EagerSnapshot:
        spare = torch.full((1,), self._spare, device=codes.device)
        self._state.reset(spare)
        self._decoder.step(codes.T[None], spare, self._state)
        return self._state.snapshot(self._spare)

    def restore(self, slot: int, snapshot: EagerSnapshot) -> None:
        assert isinstance(snapshot, EagerSnapshot), type(snapshot)
        self._state.restore(slot, snapshot)
