"""Whether a client takes its audio as fast as it is heard; it would keep a place in the engine for hours else."""

from __future__ import annotations


class SlowClientGuard:
    """What one reply has sent, and how long its client has let it wait."""

    def __init__(self, grace_s: float) -> None:
        self._left_s = grace_s

    def sent(self, audio_s: float, waited_s: float) -> bool:
        """Count a chunk; False when the client has been slower than playback by more than the grace."""
        self._left_s += audio_s - waited_s
        return self._left_s >= 0
