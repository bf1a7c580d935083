"""The exceptions of this program, each with an exit status or a stable error code.

QwenTtsError
├── ConfigError         the configuration cannot be used            exit status 78
├── StartError          the daemon cannot start                     its own exit status
├── WireError           not a valid Wyoming event                   code invalid-request
├── SinkError           a loudspeaker fails                         code target-failed
└── SpeechError         a text cannot be spoken                     code, sent to the client
    └── WorkerLost      this engine failed; another may speak it    engine-unavailable
"""

from __future__ import annotations

import os
from enum import StrEnum


class Code(StrEnum):
    """The error codes that clients receive; they never change."""

    ADDRESS_NOT_ALLOWED = "address-not-allowed"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    ENGINE_UNAVAILABLE = "engine-unavailable"
    IDLE_TIMEOUT = "idle-timeout"
    INTERNAL_ERROR = "internal-error"
    INVALID_REQUEST = "invalid-request"
    LANGUAGE_NOT_SUPPORTED = "language-not-supported"
    QUEUE_FULL = "queue-full"
    QUEUE_TIMEOUT = "queue-timeout"
    SHUTTING_DOWN = "shutting-down"
    SYNTHESIS_FAILED = "synthesis-failed"
    TARGET_FAILED = "target-failed"
    TEXT_FORMAT_NOT_SUPPORTED = "text-format-not-supported"
    TEXT_TOO_LONG = "text-too-long"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    TOO_MANY_REQUESTS = "too-many-requests"
    VOICE_NOT_FOUND = "voice-not-found"


class QwenTtsError(Exception):
    """Base class of every exception that this program raises on purpose."""


class ConfigError(QwenTtsError):
    """The configuration cannot be used; the message names the key."""

    exit_status = os.EX_CONFIG


class StartError(QwenTtsError):
    """The daemon cannot start although its configuration is valid."""

    def __init__(self, text: str, exit_status: int = os.EX_UNAVAILABLE) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class WireError(QwenTtsError):
    """A peer sent bytes that are not a Wyoming event, or an event beyond the limits."""


class SinkError(QwenTtsError):
    """A loudspeaker or its server cannot be reached, or does not play."""


class SpeechError(QwenTtsError):
    """A text cannot be spoken, or not completely."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class WorkerLost(SpeechError):
    """The engine lost its last worker before the job began, so another engine may take the job."""

    def __init__(self) -> None:
        super().__init__(Code.ENGINE_UNAVAILABLE, "the engine worker ended before it could speak")


def first_error(group: BaseException) -> BaseException:
    """Return the first exception in a group, however nested; return any other exception unchanged."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
