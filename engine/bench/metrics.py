"""Figures of a client: first audio, underruns, percentiles. Pure; the clock is the caller's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from ..model.config import FRAME_S

AUDIBLE = 10 ** (-50 / 20)
"""−50 dBFS, of full scale 1."""

Figure = float | int | str | None


@dataclass(slots=True)
class RequestTrace:
    """One request as its client plays it: it plays from the first chunk on, each chunk as soon as it can.

    Times in seconds of one clock. An underrun is a chunk that arrives after the audio before it has been played.
    """

    began_s: float
    first_s: float | None = None
    audible_s: float | None = None
    last_s: float = 0.0
    played_until_s: float = 0.0
    audio_s: float = 0.0
    first_audio_s: float = 0.0
    chunks: int = 0
    underruns: int = 0
    late_s: float = 0.0

    def receive(self, now_s: float, audio_s: float, onset_s: float | None) -> None:
        """Take a chunk of `audio_s` seconds; its first audible sample is `onset_s` after its start."""
        plays_s = now_s if self.first_s is None else max(now_s, self.played_until_s)
        if self.first_s is None:
            self.first_s, self.first_audio_s = now_s, audio_s
        elif now_s > self.played_until_s:
            self.underruns += 1
            self.late_s = max(self.late_s, now_s - self.played_until_s)
        if self.audible_s is None and onset_s is not None:
            self.audible_s = plays_s + onset_s
        self.last_s, self.played_until_s = now_s, plays_s + audio_s
        self.audio_s += audio_s
        self.chunks += 1

    @property
    def frames(self) -> int:
        return round(self.audio_s / FRAME_S)

    @property
    def first_pcm_ms(self) -> float | None:
        return None if self.first_s is None else (self.first_s - self.began_s) * 1000

    @property
    def first_audible_ms(self) -> float | None:
        return None if self.audible_s is None else (self.audible_s - self.began_s) * 1000

    @property
    def total_s(self) -> float:
        """From the request to the last chunk."""
        return self.last_s - self.began_s

    @property
    def steady_ms_per_frame(self) -> float | None:
        """From the first chunk to the last; None where there is only one."""
        frames = (self.audio_s - self.first_audio_s) / FRAME_S
        if self.first_s is None or frames <= 0:
            return None
        return (self.last_s - self.first_s) * 1000 / frames


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all values do not exceed; None without values."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else None


def spread(name: str, values: Iterable[float | None]) -> dict[str, Figure]:
    """`name_p50` and `name_p95` of the values that are there."""
    known = [value for value in values if value is not None]
    return {f"{name}_p50": percentile(known, 0.5), f"{name}_p95": percentile(known, 0.95)}


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """Return the greatest number of spans that overlap; one that ends as another starts does not overlap it."""
    edges = sorted([edge for begin, end in spans for edge in ((begin, 1), (end, -1))])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most


def load_figures(takes: Sequence[RequestTrace], refused: int, failed: int) -> dict[str, Figure]:
    """Return the figures of one rate of a load. `takes` are the requests that were served to their end."""
    audio_s = sum(take.audio_s for take in takes)
    took_s = max((take.last_s for take in takes), default=0) - min((take.began_s for take in takes), default=0)
    return {
        "served": len(takes),
        "refused": refused,
        "failed": failed,
        **spread("first_pcm_ms", (take.first_pcm_ms for take in takes)),
        **spread("audible_ms", (take.first_audible_ms for take in takes)),
        "underruns": sum(take.underruns for take in takes),
        "takes_with_underrun": sum(take.underruns > 0 for take in takes),
        "late_ms_max": max((take.late_s for take in takes), default=0) * 1000,
        "in_flight_max": most_at_once((take.began_s, take.last_s) for take in takes),
        "audio_s_per_s": audio_s / took_s if took_s else None,
    }
