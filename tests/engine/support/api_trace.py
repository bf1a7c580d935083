"""Records the codes behind the waves that the public API returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def codes_of(model: Any) -> Iterator[list[torch.Tensor]]:
    """The codes [frames, 16] of every utterance that `model` generates inside."""
    found: list[torch.Tensor] = []
    synthesize = model.engine.synthesize

    def watched(requests: Any) -> Any:
        spoken = synthesize(requests)
        found.extend(speech.codes.T for speech in spoken)
        return spoken

    model.engine.synthesize = watched
    try:
        yield found
    finally:
        del model.engine.synthesize
