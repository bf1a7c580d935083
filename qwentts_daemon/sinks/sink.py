"""What every sink promises to the announcer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

from ..errors import QwenTtsError
from ..session import Pcm

Report = Callable[[Mapping[str, object]], None]
"""Takes facts for the announcement's events, such as {"url": ...}."""


class SinkError(QwenTtsError):
    """A loudspeaker, or what stands for it, cannot be reached or does not play."""


class Sink(Protocol):
    """Where announcements of one target become sound; one after the other."""

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """Play one announcement (its id) to its end, streaming, paced by what the loudspeaker takes.

        Raises SinkError. Cancelled: silent at once, everything released.
        """
