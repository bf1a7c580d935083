"""When made frames become a chunk: the first at once, later ones together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

WHOLE_CLIP_FRAMES = 25
NEWEST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class EmissionState:
    """The state of a job: `waiting` frames after its last chunk, and how much audio its client has not played yet.

    `starved`: no frame can be made before more text arrives. `step_s` is what a frame takes now, `delivery_s` what
    passes between the order to decode a chunk and its delivery. `offset` counts frames from the job's start to its last
    chunk's end, plus the number of its slot.
    """

    chunk: int
    waiting: int
    starved: bool
    in_hand_s: float
    step_s: float
    delivery_s: float
    offset: int = 0


@dataclass(frozen=True, slots=True)
class EmissionPlan:
    """`sizes[n]` frames make chunk n; the last size is that of all later chunks."""

    sizes: tuple[int, ...] = (1, 1, 2, 4, 8)

    def __post_init__(self) -> None:
        _check(self.sizes)

    def frames(self, chunk: int) -> int:
        """How many frames chunk number `chunk` has."""
        return self.sizes[min(chunk, len(self.sizes) - 1)]

    def due(self, moment: EmissionState) -> int:
        """How many of the waiting frames are to become a chunk now."""
        size = self.frames(moment.chunk)
        return size if moment.waiting >= size else 0


@dataclass(frozen=True, slots=True)
class BufferedPlan:
    """Chunks as large as the audio in the client's hand allows.

    A larger chunk is waited for only while it will arrive before half of that audio is gone; so a client that has
    received nothing gets the first frame, and an engine slower than speech sends all it has.

    The largest chunks of jobs in neighbouring slots end at different frames. Without that, jobs that begin together
    would complete all their chunks in one step, which then takes several times as long as the others.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self) -> None:
        _check(self.sizes)

    def due(self, moment: EmissionState) -> int:
        """How many of the waiting frames are to become a chunk now."""
        if moment.starved:
            return moment.waiting  # the time of the next frame is unknown
        sizes = self._sizes(moment.offset)
        if any(self._in_time(size, moment) for size in sizes if size > moment.waiting):
            return 0
        return max((size for size in sizes if size <= moment.waiting), default=0)

    def _sizes(self, offset: int) -> list[int]:
        """Return the sizes to choose from: not past the next multiple of the largest."""
        largest = max(self.sizes)
        left = largest - offset % largest
        return [*(size for size in self.sizes if size < left), left]

    def _in_time(self, size: int, moment: EmissionState) -> bool:
        arrives_s = (size - moment.waiting) * moment.step_s + moment.delivery_s
        return arrives_s < moment.in_hand_s / 2


@dataclass(frozen=True, slots=True)
class TwoPhasePlan:
    """Chunks of `first` frames until `first_frames` are out, if that is wanted (`first` > 0); then of `steady`."""

    first: int
    first_frames: int
    steady: int

    def __post_init__(self) -> None:
        _check((self.first or self.steady, self.steady))

    def early(self, chunk: int) -> bool:
        """Whether chunk number `chunk` belongs to the first phase."""
        return self.first > 0 and chunk * self.first < self.first_frames

    def frames(self, chunk: int) -> int:
        """How many frames chunk number `chunk` has."""
        return self.first if self.early(chunk) else self.steady

    def due(self, moment: EmissionState) -> int:
        """How many of the waiting frames are to become a chunk now."""
        size = self.frames(moment.chunk)
        return size if moment.waiting >= size else 0


Emission: TypeAlias = EmissionPlan | BufferedPlan | TwoPhasePlan


@dataclass(slots=True)
class Playback:
    """What a client still has to play, if it plays without pause what it gets."""

    ends_s: float | None = None

    def receive(self, now_s: float, audio_s: float) -> None:
        """Audio arrives; after an underrun it is played at once."""
        self.ends_s = max(now_s, self.ends_s or now_s) + audio_s

    def in_hand_s(self, now_s: float, under_way_s: float) -> float:
        """Seconds not played yet, those in flight included; 0 before the first arrival, which may be silence."""
        return 0.0 if self.ends_s is None else max(self.ends_s - now_s, 0.0) + under_way_s


@dataclass(slots=True)
class MovingAverage:
    """A measured duration whose newest value counts for a fifth; 0 before the first."""

    value_s: float = 0.0
    known: bool = False

    def add(self, measured_s: float) -> None:
        self.value_s += (measured_s - self.value_s) * (NEWEST_SHARE if self.known else 1.0)
        self.known = True


def _check(sizes: Sequence[int]) -> None:
    if not sizes or min(sizes) < 1:
        raise ValueError(f"a chunk has at least one frame, not {sizes}")
