"""Loudspeakers of Rhasspy's sites (Hermes): their topics, and their acknowledgements of what they have played."""

from __future__ import annotations

import asyncio


class PlayAcks:
    """The requests that sites are playing now."""

    def __init__(self) -> None:
        self._playing: dict[str, asyncio.Event] = {}

    def expect(self, request: str) -> asyncio.Event:
        """Return an event that is set when a site acknowledges `request`. Pair it with `forget`."""
        return self._playing.setdefault(request, asyncio.Event())

    def forget(self, request: str) -> None:
        """Stop waiting for `request`."""
        self._playing.pop(request, None)

    def acknowledge(self, request: str) -> None:
        """Set the event of `request`; ignore requests that are not ours."""
        if finished := self._playing.get(request):
            finished.set()


def played_topic(site: str) -> str:
    """Return the topic on which a site acknowledges playback."""
    return f"hermes/audioServer/{site}/playFinished"


def play_topic(site: str, request: str) -> str:
    """Return the topic on which a site receives a WAV file."""
    return f"hermes/audioServer/{site}/playBytes/{request}"
