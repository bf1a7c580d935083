"""Looks at the codes behind the waves that the public API gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def codes_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """The codes [frames, 16] of every utterance that `model` generates inside."""
    found: list[torch.Tensor] = []
    speak = model.engine.speak

    def watched(utterances: Any) -> Any:
        spoken = speak(utterances)
        found.extend(speech.codes.T for speech in spoken)
        return spoken

    model.engine.speak = watched
    try:
        yield found
    finally:
        del model.engine.speak
