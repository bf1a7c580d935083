"""Chunking policies: when generated frames are sent as a chunk. The first is sent at once, later ones in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

WHOLE_CLIP_FRAMES = 25
NEWEST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class EmissionState:
    """State of one job: `waiting` frames since its last chunk, and how much audio its client has not played yet.

    `starved`: no frame can be generated until more text arrives. `step_s` is the current duration of one frame,
    `delivery_s` the time from launching a chunk's decoding to delivering it. `offset` is the number of frames up to the
    end of the last chunk, plus the slot number.
    """

    chunk: int
    waiting: int
    starved: bool
    in_hand_s: float
    step_s: float
    delivery_s: float
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class EmissionPlan:
    """Chunk n has `sizes[n]` frames; the last size applies to all later chunks."""

    sizes: tuple[int, ...] = (1, 1, 2, 4, 8)

    def __post_init__(self) -> None:
        _check(self.sizes)

    def frames(self, chunk: int) -> int:
        """Return the number of frames in chunk number `chunk`."""
        return self.sizes[min(chunk, len(self.sizes) - 1)]

    def due(self, state: EmissionState) -> int:
        """Return how many of the waiting frames to emit as a chunk now; 0 to wait."""
        size = self.frames(state.chunk)
        return size if state.waiting >= size else 0


@dataclass(frozen=True, slots=True)
class BufferedPlan:
    """Make chunks as large as the client's buffered audio allows.

    A larger chunk is worth waiting for only if it will arrive before half of the buffered audio has been played. A
    client that has not received any audio therefore gets the first frame at once, and an engine slower than real time
    sends every frame it has.

    With `offset`, the largest chunks of jobs in neighbouring slots end at different frames. Otherwise, many jobs that
    start together would complete all their chunks in the same step, which would then take several times as long as the
    others. For a few jobs one larger batch is faster.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        _check(self.sizes)

    def due(self, state: EmissionState) -> int:
        """Return how many of the waiting frames to emit as a chunk now; 0 to wait."""
        if state.starved:
            return state.waiting  # the arrival time of the next frame is unknown
        sizes = self._sizes(state.offset)
        if any(self._in_time(size, state) for size in sizes if size > state.waiting):
            return 0
        return max((size for size in sizes if size <= state.waiting), default=0)

    def _sizes(self, offset: int | None) -> Sequence[int]:
        """Return the candidate sizes; with `offset` no chunk extends past the next multiple of the largest size."""
        if offset is None:
            return self.sizes
        largest = max(self.sizes)
        left = largest - offset % largest
        return [*(size for size in self.sizes if size < left), left]

    def _in_time(self, size: int, state: EmissionState) -> bool:
        arrives_s = (size - state.waiting) * state.step_s + state.delivery_s
        return arrives_s < state.in_hand_s / 2


@dataclass(frozen=True, slots=True)
class TwoPhasePlan:
    """Chunks of `first` frames until `first_frames` have been sent (unless `first` is 0), then of `steady` frames."""

    first: int
    first_frames: int
    steady: int

    def __post_init__(self) -> None:
        _check((self.first or self.steady, self.steady))

    def early(self, chunk: int) -> bool:
        """Return True if chunk number `chunk` belongs to the first phase."""
        return self.first > 0 and chunk * self.first < self.first_frames

    def frames(self, chunk: int) -> int:
        """Return the number of frames in chunk number `chunk`."""
        return self.first if self.early(chunk) else self.steady

    def due(self, state: EmissionState) -> int:
        """Return how many of the waiting frames to emit as a chunk now; 0 to wait."""
        size = self.frames(state.chunk)
        return size if state.waiting >= size else 0


Emission: TypeAlias = EmissionPlan | BufferedPlan | TwoPhasePlan


@dataclass(slots=True)
class Playback:
    """Estimate of a client's playback buffer, assuming that it plays without pausing."""

    ends_s: float | None = None

    def receive(self, now_s: float, audio_s: float) -> None:
        """Record the arrival of audio. After an underrun, playback resumes at once."""
        self.ends_s = max(now_s, self.ends_s or now_s) + audio_s

    def in_hand_s(self, now_s: float, in_flight_s: float) -> float:
        """Return the seconds of audio not played yet, including audio in flight.

        0 before the first arrival: in-flight audio may turn out to be silence and be trimmed.
        """
        return 0.0 if self.ends_s is None else max(self.ends_s - now_s, 0.0) + in_flight_s


@dataclass(slots=True)
class MovingAverage:
    """Exponential moving average of a duration; the newest value has a weight of 1/5. 0 before the first value."""

    value_s: float = 0.0
    known: bool = False

    def add(self, measured_s: float) -> None:
        self.value_s += (measured_s - self.value_s) * (NEWEST_SHARE if self.known else 1.0)
        self.known = True


def _check(sizes: Sequence[int]) -> None:
    if not sizes or min(sizes) < 1:
        raise ValueError(f"chunk sizes must be at least one frame, not {sizes}")
