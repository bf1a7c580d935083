"""What a worker process is told when it is spawned; plain values, validated by the daemon's config."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """`backend` names a class as `module:Class`; the worker makes it with these settings and drives it."""

    name: str
    backend: str
    log_level: str = "INFO"
    log_format: str = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
