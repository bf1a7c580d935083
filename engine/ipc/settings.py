"""What a worker process is told when it is spawned; plain values, validated by the daemon's config."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which checkpoint speaks, where and how. `sampling` holds what was given, under the reference's names."""

    name: str
    voices_dir: str
    device: str
    dtype: str
    codec_dtype: str
    kernels: str
    cuda_graphs: bool
    revision: str | None
    offline: bool
    cache_dir: str | None
    max_jobs: int
    trim_silence: bool
    sampling: dict[str, float | int | bool]


@dataclass(frozen=True, slots=True)
class Settings:
    """`backend` names a class as `module:Class`; the worker makes it with these settings and drives it."""

    name: str
    backend: str
    log_level: str = "INFO"
    log_formatter: logging.Formatter = field(default_factory=logging.Formatter)
    model: ModelSettings | None = None
