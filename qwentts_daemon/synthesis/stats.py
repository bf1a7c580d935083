"""Statistics of replies, for the status that is published."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class ReplyStats:
    """Counts running replies and keeps the timings of the last one. `watch` is called at each change."""

    def __init__(self) -> None:
        self.speaking = 0
        self.first_audio_s: float | None = None
        self.real_time_factor: float | None = None
        self.watch: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def reply(self) -> Iterator[None]:
        """Count a reply while the context is open."""
        self.speaking += 1
        self.watch()
        try:
            yield
        finally:
            self.speaking -= 1
            self.watch()

    def measured(self, first_audio_s: float, real_time_factor: float) -> None:
        """Record the timings of a reply."""
        self.first_audio_s = first_audio_s
        self.real_time_factor = real_time_factor
