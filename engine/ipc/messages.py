"""What crosses the border between the daemon and an engine worker: small frozen dataclasses, never tensors.

Commands go to the worker, events come back. A job's id is chosen by the daemon and known to both processes.
Clock readings are `time.monotonic()` seconds, which every process of one Linux machine shares.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Voice:
    """A named way to speak.

    `languages` are BCP-47 tags, the voice's own first; `styles` are the backend's own ways to vary it;
    `follows_instruct` says whether it also takes a style described in words.
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
    """More text of an open job: always whole words with the blank that belongs between them."""

    job: int
    text: str


@dataclass(frozen=True, slots=True)
class EndText:
    """No more text will come for this job."""

    job: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a job. Nothing more is sent for it; an unknown job is no error."""

    job: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Make no more audio for a job until `held` is False: its listener has enough unread."""

    job: int
    held: bool


@dataclass(frozen=True, slots=True)
class SetLogLevel:
    """Log from this level on."""

    level: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the worker process."""


Command = Synthesize | AppendText | EndText | Cancel | Hold | SetLogLevel | Stop


# --- events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The backend is loaded and speaks up to `capacity` jobs at once."""

    voices: tuple[Voice, ...]
    capacity: int
    description: str


@dataclass(frozen=True, slots=True)
class Voices:
    """The voices have changed; these are all of them."""

    voices: tuple[Voice, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """How much of the GPU's memory is in use, by whomever."""

    used_bytes: int


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The backend cannot be loaded; the worker exits after this. `permanent`: trying again is of no use."""

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
    """A job has ended well. `busy_s` is the time the backend spent on it; `cut` says why, if a guard ended it early."""

    job: int
    samples: int
    busy_s: float
    cut: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A job has ended badly; the worker lives on. `code` is one of the daemon's stable error codes."""

    job: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """The process is alive: sent twice a second by a thread of its own.

    `step_s` is how long the loop has been in one call, beyond what the backend says is usual; `lengthy`: the backend
    says that this one may take minutes.
    """

    step_s: float = 0.0
    lengthy: bool = False


Event = Ready | Voices | Memory | LoadFailed | Started | Chunk | Done | Failed | Health
