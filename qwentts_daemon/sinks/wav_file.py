"""Writes each announcement into a WAV file, which appears under its name when it is complete."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO

from ..audio.pcm import Pcm
from ..audio.wav import HEADER_BYTES, header
from ..config.target_schema import WavTarget
from ..errors import SinkError
from .base import Report, plain, play_through

PRIVATE = 0o600
CLOSE_S = 1.0
READABLE = 0o044  # by group and others, as far as they may read the directory


class WavSink:
    """Files of one directory, named by the target's `name`."""

    def __init__(self, name: str, target: WavTarget) -> None:
        self._name = name
        self._directory = Path(target.directory).expanduser()
        self._template = target.name

    async def play(self, announcement: str, pcm: AsyncIterator[Pcm], report: Report) -> None:
        """See `Sink`. Reports the file."""
        path = self._directory / self._file_name(announcement)
        await play_through(pcm, partial(opened, path, report))

    def _file_name(self, announcement: str) -> str:
        now = f"{datetime.now():%Y%m%dT%H%M%S-%f}"  # several may be written within a second
        words = {"{target}": self._name, "{id}": plain(announcement), "{time}": now}
        name = self._template
        for field, word in words.items():
            name = name.replace(field, word)
        return name


class WavFile:
    """A file that is written in a separate thread, which a slow disk may block."""

    def __init__(self, path: Path, rate: int) -> None:
        self.path = path
        self._rate = rate
        self._thread = ThreadPoolExecutor(1, "wav")  # one: each step waits for the one before it
        self._file: IO[bytes] | None = None

    async def open(self) -> None:
        """Create it under a temporary name. Raises SinkError."""
        await self._do(self._open)

    async def write(self, pcm: Pcm) -> None:
        """See `Player`."""
        await self._do(partial(self._append, pcm.samples))

    async def finish(self) -> None:
        """See `Player`."""
        await self._do(self._complete)

    async def close(self) -> None:
        """Delete it unless it is complete, without waiting for a disk that hangs."""
        discarded = asyncio.wrap_future(self._thread.submit(self._discard))
        self._thread.shutdown(wait=False)
        await asyncio.wait([discarded], timeout=CLOSE_S)

    async def _do(self, step: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, step)
        except OSError as error:
            raise SinkError(f"{self.path}: {error.strerror}") from error

    def _open(self) -> None:
        directory = self.path.parent
        self._file = tempfile.NamedTemporaryFile(  # noqa: SIM115 - `_complete` or `_discard` closes it
            dir=directory, prefix=".", suffix=".part", delete=False
        )
        os.fchmod(self._file.fileno(), PRIVATE | directory.stat().st_mode & READABLE)
        self._file.write(header(self._rate, None))

    def _append(self, samples: bytes) -> None:
        assert self._file
        self._file.write(samples)

    def _complete(self) -> None:
        assert self._file
        size = self._file.tell() - HEADER_BYTES
        self._file.seek(0)
        self._file.write(header(self._rate, size))
        self._file.close()
        Path(self._file.name).replace(self.path)
        self._file = None

    def _discard(self) -> None:
        if self._file:
            Path(self._file.name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of a full disk, where what is left cannot be written either
                self._file.close()


@contextlib.asynccontextmanager
async def opened(path: Path, report: Report, rate: int) -> AsyncIterator[WavFile]:
    """Open a file that is renamed to `path` when it is complete, which is reported. Raises SinkError."""
    file = WavFile(path, rate)
    try:
        await file.open()
        yield file
        report({"file": str(path)})
    finally:
        await file.close()
