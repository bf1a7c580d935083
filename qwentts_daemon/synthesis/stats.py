"""What the speaker does and how well, for those who show it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class ReplyStats:
    """Counts replies and keeps the figures of the last one; `watch` is called at each change."""

    def __init__(self) -> None:
        self.speaking = 0
        self.first_audio_s: float | None = None
        self.real_time_factor: float | None = None
        self.watch: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def reply(self) -> Iterator[None]:
        """One more speaks, for the length of the context."""
        self.speaking += 1
        self.watch()
        try:
            yield
        finally:
            self.speaking -= 1
            self.watch()

    def measured(self, first_audio_s: float, real_time_factor: float) -> None:
        """How a reply went."""
        self.first_audio_s = first_audio_s
        self.real_time_factor = real_time_factor
