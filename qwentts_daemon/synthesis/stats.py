"""Statistics of replies, for the status that is published."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class ReplyStats:
    """Counts running replies and keeps the timings of the last one."""

    def __init__(self) -> None:
        self.speaking = 0
        self.first_audio_s: float | None = None
        self.real_time_factor: float | None = None

    @contextlib.contextmanager
    def reply(self) -> Iterator[None]:
        """Count a reply while the context is open."""
        self.speaking += 1
        try:
            yield
        finally:
            self.speaking -= 1

    def measured(self, first_audio_s: float, real_time_factor: float) -> None:
        """Record the timings of a reply."""
        self.first_audio_s = first_audio_s
        self.real_time_factor = real_time_factor
