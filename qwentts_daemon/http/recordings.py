"""Recordings that can be fetched while they are written and for a while after, in a bounded space on disk.

Each is a file without a name, which the system frees together with the process: nothing is left behind, and no one
else can read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..audio.pcm import Pcm
from ..audio.wav import HEADER_BYTES, header
from ..errors import QwenTtsError

MAX_RECORDINGS = 100  # each keeps a file open
ID_BYTES = 16


class RecordingError(QwenTtsError):
    """There is not enough space for a recording."""


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """The directory of recordings, their greatest total size, and how long a complete one is kept."""

    directory: Path
    max_bytes: int
    keep_s: float


class RecordingStore:
    """All recordings. The oldest complete one without a reader is evicted for a new one."""

    def __init__(self, space: StorageLimits, url_of: Callable[[str], str]) -> None:
        """`url_of` returns the address of an id."""
        self.space = space
        self.used_bytes = 0
        self._url_of = url_of
        self._recordings: dict[str, StoredRecording] = {}  # the oldest first

    @property
    def listeners(self) -> int:
        """Return the number of clients that are fetching a recording."""
        return sum(recording.listeners for recording in self._recordings.values())

    def begin(self) -> StoredRecording:
        """Create a recording, which can be fetched at once. Raises RecordingError."""
        if len(self._recordings) >= MAX_RECORDINGS:
            self.drop_oldest(f"{MAX_RECORDINGS} announcements are being made or fetched already")
        identity = secrets.token_urlsafe(ID_BYTES)
        recording = StoredRecording(self, identity, self._url_of(identity))
        self._recordings[identity] = recording
        return recording

    def find(self, identity: str) -> StoredRecording | None:
        """Return the recording with this id, or None."""
        return self._recordings.get(identity)

    def take(self, size: int) -> None:
        """Reserve `size` bytes, evicting older recordings if necessary. Raises RecordingError."""
        while self.used_bytes + size > self.space.max_bytes:
            self.drop_oldest(f"the space for announcements is used up ({self.space.max_bytes} bytes)")
        self.used_bytes += size

    def remove(self, recording: StoredRecording) -> None:
        """Remove it from the store; its present readers may continue."""
        if self._recordings.pop(recording.identity, None):
            recording.retire()

    def close(self) -> None:
        """Withdraw everything."""
        for recording in list(self._recordings.values()):
            recording.withdraw()

    def drop_oldest(self, problem: str) -> None:
        """Evict the oldest recording. Raises RecordingError with this problem if none can be evicted."""
        idle = (each for each in self._recordings.values() if each.is_complete and not each.listeners)
        oldest = next(idle, None)
        if oldest is None:
            raise RecordingError(f"{problem}; see http.cache_megabytes and http.keep")
        self.remove(oldest)


class StoredRecording:
    """One WAV file: growing, then complete or withdrawn."""

    def __init__(self, store: RecordingStore, identity: str, url: str) -> None:
        self.identity = identity
        self.url = url
        self.is_complete = False
        self.is_withdrawn = False
        self.listeners = 0
        self.size = 0  # in bytes, the header included
        self._store = store
        self._rate = 0  # until the first of the sound has come
        self._retired = False
        self._news = asyncio.Event()
        self._fetched_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._file = self._opened()

    @property
    def duration_s(self) -> float:
        """Return the duration of the audio so far."""
        return (self.size - HEADER_BYTES) / 2 / self._rate if self._rate else 0.0

    def append(self, pcm: Pcm) -> None:
        """Append audio, which readers receive at once. Raises RecordingError."""
        if not self._rate:
            self._append(header(pcm.rate, None))
            self._rate = pcm.rate
        self._append(pcm.samples)
        self._tell()

    def complete(self) -> None:
        """Mark it as complete: its length is known, and its time in the store starts. It must not be empty."""
        os.pwrite(self._file.fileno(), header(self._rate, self.size - HEADER_BYTES), 0)
        self.is_complete = True
        self._tell()
        asyncio.get_running_loop().call_later(self._store.space.keep_s, self._store.remove, self)

    def withdraw(self) -> None:
        """End it at once, also for present readers."""
        self.is_withdrawn = True
        self._tell()
        self._store.remove(self)

    def retire(self) -> None:
        """Withdraw it; it is deleted once the last reader is done."""
        self._retired = True
        self._free_if_unused()

    def read(self, begin: int, size: int) -> bytes:
        """Return at most `size` bytes of the file from `begin` on."""
        return os.pread(self._file.fileno(), size, begin)

    async def grown(self, beyond: int) -> None:
        """Wait until the file has more than `beyond` bytes or has ended."""
        while self.size <= beyond and not (self.is_complete or self.is_withdrawn):
            await self._news.wait()

    async def first_fetched(self) -> float:
        """Wait until a reader has started and return when, in monotonic seconds."""
        return await asyncio.shield(self._fetched_s)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Count a reader while the context is open."""
        self.listeners += 1
        if not self._fetched_s.done():
            self._fetched_s.set_result(time.monotonic())
        try:
            yield
        finally:
            self.listeners -= 1
            self._free_if_unused()

    def _opened(self) -> io.FileIO:
        try:
            return tempfile.TemporaryFile(dir=self._store.space.directory, buffering=0)
        except OSError as error:
            raise RecordingError(f"{self._store.space.directory}: {error.strerror} (http.cache_dir)") from error

    def _append(self, data: bytes) -> None:
        self._store.take(len(data))
        try:
            self._write(memoryview(data))
        except RecordingError:
            self._store.used_bytes -= len(data)
            raise
        self.size += len(data)

    def _write(self, data: memoryview) -> None:
        """Write everything or raise RecordingError; if the disk is full, older recordings are evicted too."""
        while data:
            try:
                data = data[self._file.write(data) :]
            except OSError as error:
                problem = f"{self._store.space.directory}: {error.strerror} (http.cache_dir)"
                if error.errno != errno.ENOSPC:
                    raise RecordingError(problem) from error
                self._store.drop_oldest(problem)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _free_if_unused(self) -> None:
        if self._retired and not self.listeners and not self._file.closed:
            self._file.close()
            self._store.used_bytes -= self.size
