"""The settings of a worker process: plain values, which the daemon's configuration has validated."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The checkpoint, its device and its options. `sampling`: the configured values under the reference's names."""

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
    """The settings of one worker. `backend` names a class as `module:Class`, which is created with these settings."""

    name: str
    backend: str
    log_level: str = "INFO"
    log_formatter: logging.Formatter = field(default_factory=logging.Formatter)
    model: ModelSettings | None = None
