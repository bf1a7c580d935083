"""The streaming keywords of the streaming fork: names, defaults and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..model.config import FRAME_SAMPLES
from ..prompt.sampling_params import SamplingParams
from ..prompt.validation import check_bool, check_number
from ..scheduler.chunking import TwoPhasePlan
from .inputs import checked_sampling
from .optimizations import LONGEST_WINDOW

_MANY = 2**31 - 1
_RANGES = {
    "emit_every_frames": (1, _MANY),
    "decode_window_frames": (1, LONGEST_WINDOW),
    "overlap_samples": (0, _MANY),
    "max_frames": (1, _MANY - 1),  # N frames take N + 1 samples
    "first_chunk_emit_every": (0, _MANY),
    "first_chunk_decode_window": (1, LONGEST_WINDOW),
    "first_chunk_frames": (1, _MANY),
}


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How many frames the window of each chunk has, and how many samples it is cross-faded with the chunk before.

    A window holds its chunk and at least the `overlap` samples before it.
    """

    emission: TwoPhasePlan
    first: int
    steady: int
    overlap: int

    def frames(self, chunk: int) -> int:
        """Return the length of the window of chunk number `chunk`, in frames; fewer exist at the start."""
        return self.first if self.emission.early(chunk) else self.steady

    @property
    def longest(self) -> int:
        return max(self.first, self.steady) if self.emission.first else self.steady


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Options of every streaming method, with the streaming fork's defaults. A frame is 80 ms, 1920 samples.

    emit_every_frames: frames of a chunk; the last one may be shorter. With first_chunk_emit_every > 0, chunks have that
    many frames until first_chunk_frames are out. max_frames: the longest speech. repetition_penalty counts over the
    last repetition_penalty_window samples (0: all, at most 512) and is off by default, as in the streaming fork.

    windowed_decode=True decodes as the streaming fork does, slower and less exactly: each chunk anew, in a window of
    decode_window_frames frames that ends with it (first_chunk_decode_window in the first phase). Its first
    overlap_samples samples are cross-faded with the window before, which delays the audio by as many; speech fades in
    and out over as many. use_optimized_decode: use what `enable_streaming_optimizations` has prepared. Without
    windowed_decode these four have no effect: the incremental decode is exact, without windows and seams.

    async_decode=True decodes in a thread of its own, on `from_pretrained`'s codec_device, and yields each chunk one
    chunk later. The engine decodes concurrently anyway: this pays off with a second GPU only.

    use_paged_engine=True uses the paged engine, which is opened at its first use: see
    `Qwen3TTSModel.enable_streaming_optimizations`.

    Raises ValueError for values out of range and for values that contradict each other.
    """

    emit_every_frames: int = 8
    decode_window_frames: int = 80
    overlap_samples: int = 512
    max_frames: int = 10000
    use_optimized_decode: bool = True
    first_chunk_emit_every: int = 0
    first_chunk_decode_window: int = 48
    first_chunk_frames: int = 48
    repetition_penalty_window: int = 100
    repetition_penalty: float = 1.0
    async_decode: bool = False
    use_paged_engine: bool = False
    windowed_decode: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            check_number(name, getattr(self, name), low, high, whole=True)
        for name in ("use_optimized_decode", "async_decode", "use_paged_engine", "windowed_decode"):
            check_bool(name, getattr(self, name))
        if self.first_chunk_emit_every > self.first_chunk_frames:
            raise ValueError(
                f"first_chunk_emit_every={self.first_chunk_emit_every} is more than first_chunk_frames="
                f"{self.first_chunk_frames}: the first phase would be over before its first chunk"
            )
        if self.windowed_decode:
            self._check_windows()

    @classmethod
    def split(cls, keywords: Mapping[str, Any]) -> tuple[StreamOptions, dict[str, Any]]:
        """Split keywords into stream options and the rest, the sampling keywords. Raises ValueError."""
        names = {field.name for field in fields(cls)}
        ours = {name: value for name, value in keywords.items() if name in names}
        return cls(**ours), {name: value for name, value in keywords.items() if name not in names}

    @classmethod
    def split_batch(cls, keywords: Mapping[str, Any]) -> tuple[StreamOptions, dict[str, Any]]:
        """Split the keywords of a batch, where `compact_finished` is accepted without effect. Raises ValueError."""
        return cls.split({name: value for name, value in keywords.items() if name != "compact_finished"})

    @property
    def emission(self) -> TwoPhasePlan:
        """The chunk sizes of both phases."""
        return TwoPhasePlan(self.first_chunk_emit_every, self.first_chunk_frames, self.emit_every_frames)

    @property
    def decodes_separately(self) -> bool:
        """True if the engine generates only codes, which are decoded outside of it."""
        return self.windowed_decode or self.async_decode

    @property
    def windows(self) -> WindowPlan | None:
        """The windows of `windowed_decode`; None without it."""
        if not self.windowed_decode:
            return None
        return WindowPlan(
            self.emission, self.first_chunk_decode_window, self.decode_window_frames, self.overlap_samples
        )

    def sampling(self, explicit: Mapping[str, Any], file: Mapping[str, Any], codec_vocab: int) -> SamplingParams:
        """Return the sampling parameters; a `max_new_tokens` below `max_frames` + 1 counts. Raises SamplingError."""
        penalty = {
            "repetition_penalty": self.repetition_penalty,
            "repetition_penalty_window": self.repetition_penalty_window,
        }
        most = self.max_frames + 1
        checked = checked_sampling({**explicit, **penalty}, {**file, "max_new_tokens": most}, codec_vocab)
        return replace(checked, max_new_tokens=min(checked.max_new_tokens, most))

    def _check_windows(self) -> None:
        phases = [("emit_every_frames", "decode_window_frames")]
        if self.first_chunk_emit_every:
            phases.append(("first_chunk_emit_every", "first_chunk_decode_window"))
        for chunk_name, window_name in phases:
            chunk, window = getattr(self, chunk_name), getattr(self, window_name)
            needed = chunk + -(-self.overlap_samples // FRAME_SAMPLES)
            if window < needed:
                raise ValueError(
                    f"{window_name}={window} must be at least {needed}: it renders the {chunk} frames of a chunk "
                    f"({chunk_name}) and once more the {self.overlap_samples} samples before it (overlap_samples)"
                )
            if self.overlap_samples > chunk * FRAME_SAMPLES:
                raise ValueError(
                    f"overlap_samples={self.overlap_samples} is more than a chunk of {chunk} frames has ({chunk_name})"
                )
