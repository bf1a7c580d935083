"""The messages between the daemon and an engine worker: small frozen dataclasses, never tensors.

The daemon sends commands, the worker sends events. The daemon chooses the ids of jobs. A change of any field here
changes `channel.greeting`.
Clock readings are `time.monotonic()` seconds, which every process of one Linux machine shares.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Voice:
    """A named way to speak.

    `languages` are BCP-47 tags, the voice's own first; `styles` are the backend's own ways to vary it;
    `follows_instruct`: whether it also takes a style described in words.
    """

    id: str
    description: str
    languages: tuple[str, ...]
    styles: tuple[str, ...] = ()
    follows_instruct: bool = False


# --- commands -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Synthesize:
    """Begin a job. With `ended` False more text follows in `AppendText`, and `EndText` closes it."""

    job: int
    voice: str
    text: str = ""
    ended: bool = True
    language: str | None = None
    style: str | None = None
    instruct: str | None = None


@dataclass(frozen=True, slots=True)
class AppendText:
    """Append text to an open job: always whole words, with the blank between them."""

    job: int
    text: str


@dataclass(frozen=True, slots=True)
class EndText:
    """Mark the text of a job as complete."""

    job: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop a job. The worker sends nothing more for it, and ignores an unknown job."""

    job: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Pause a job while `held`: its client has not read the audio that exists."""

    job: int
    held: bool


@dataclass(frozen=True, slots=True)
class SetLogLevel:
    """Set the log level."""

    level: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the worker process."""


Command = Synthesize | AppendText | EndText | Cancel | Hold | SetLogLevel | Stop


# --- events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The backend is loaded and runs up to `capacity` jobs at once."""

    voices: tuple[Voice, ...]
    capacity: int
    description: str


@dataclass(frozen=True, slots=True)
class Voices:
    """The voices have changed; these are all of them."""

    voices: tuple[Voice, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """The GPU memory in use by all processes."""

    used_bytes: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The backend cannot be loaded, and the worker exits. `permanent`: another attempt cannot succeed."""

    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Started:
    """A job's first audio exists: mono signed 16-bit PCM at `rate` Hz follows."""

    job: int
    rate: int
    received_s: float
    made_s: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """PCM of one job, in order: mono, signed 16-bit, little-endian."""

    job: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """A job is complete. `busy_s`: time that the backend spent on it; `cut`: the reason if a guard ended it early."""

    job: int
    samples: int
    busy_s: float
    cut: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A job has failed; the worker continues. `code` is one of the daemon's stable error codes."""

    job: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """A heartbeat, which a separate thread of the worker sends twice a second.

    step_s: how long the loop has been in one call, beyond the usual time of the backend.
    long_running: the backend reports that this call may take minutes.
    """

    step_s: float = 0.0
    long_running: bool = False


Event = Ready | Voices | Memory | LoadFailed | Started | Chunk | Done | Failed | Health
