"""A request to the engine: voice, language and style."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SynthesisRequest:
    """Voice, language and style of a text, under the backend's own names; `instruct` describes a style in words."""

    voice: str
    language: str | None = None
    style: str | None = None
    instruct: str | None = None
