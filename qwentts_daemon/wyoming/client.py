"""A Wyoming client for the command line, which uses a running daemon as Home Assistant does."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import shutil
import stat
import subprocess
import sys
import time
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info, TtsProgram, TtsVoice
from wyoming.tts import (
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from ..errors import Code, SpeechError, StartError

RETRY_S = 0.1
READ_BYTES = 4096
PLAYERS = (
    ("pw-play", "--format", "s16", "--rate", "{rate}", "--channels", "1", "-"),
    ("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-r", "{rate}", "-c", "1"),
    ("paplay", "--raw", "--format=s16le", "--rate={rate}", "--channels=1"),
)

Write = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """The daemon, voice and style of a request, and how many seconds to wait for the daemon."""

    uri: str
    voice: str | None
    speaker: str | None
    wait_s: float


@dataclass(slots=True)
class ClientResult:
    """The result of a request; times in seconds since the first text was sent."""

    first_audio_s: float = 0.0
    total_s: float = 0.0
    audio_s: float = 0.0
    chunks: int = 0


async def say(request: ClientOptions, pieces: AsyncIterator[str], write: Write) -> ClientResult:
    """Send text while reading audio. `write` is called with rate and PCM. Raises SpeechError and StartError."""
    async with _connected(request) as wyoming, asyncio.TaskGroup() as tasks:
        began_s = time.monotonic()
        sender = tasks.create_task(_send_text(wyoming, request, pieces), name="text")
        result = await _receive(wyoming, write, began_s)
        sender.cancel()
    return result


async def voices(request: ClientOptions) -> list[TtsVoice]:
    """Return the voices that the daemon lists."""
    return [voice for program in await programs(request) for voice in program.voices]


async def programs(request: ClientOptions) -> list[TtsProgram]:
    """Return the programs and voices of the daemon."""
    async with _connected(request) as wyoming:
        await wyoming.write_event(Describe().event())
        async for event in _events(wyoming):
            if Info.is_type(event.type):
                return Info.from_event(event).tts
    raise SpeechError(Code.ENGINE_UNAVAILABLE, "the daemon closed the connection without an answer")


async def whole(text: str) -> AsyncIterator[str]:
    """Yield a text that is complete."""
    yield text


async def stdin_pieces() -> AsyncIterator[str]:
    """Yield standard input as it arrives."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode):  # a file is never waited for, and cannot be
        yield sys.stdin.buffer.read().decode(errors="replace")
        return
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while data := await reader.read(READ_BYTES):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


@contextlib.contextmanager
def sink(output: Path | None, play: bool) -> Iterator[Write]:
    """Open the outputs for the audio: a WAV file, a loudspeaker, or both."""
    with contextlib.ExitStack() as stack:
        writers = [writer for writer in (_wav_writer(stack, output), _player(stack, play)) if writer]

        def write(rate: int, pcm: bytes) -> None:
            for writer in writers:
                writer(rate, pcm)

        yield write


def _wav_writer(stack: contextlib.ExitStack, output: Path | None) -> Write | None:
    """Return a writer that creates the file at the first audio, so that a failure does not leave an empty one."""
    if output is None:
        return None
    files: list[wave.Wave_write] = []

    def write(rate: int, pcm: bytes) -> None:
        if not files:
            files.append(stack.enter_context(_open_wav(output, rate)))
        files[0].writeframesraw(pcm)

    return write


def _open_wav(path: Path, rate: int) -> wave.Wave_write:
    try:
        wav = wave.open(str(path), "wb")  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}", os.EX_CANTCREAT) from error
    wav.setparams((1, 2, rate, 0, "NONE", ""))
    return wav


def _player(stack: contextlib.ExitStack, play: bool) -> Write | None:
    if not play:
        return None
    command = next((words for words in PLAYERS if shutil.which(words[0])), None)
    if command is None:
        names = ", ".join(words[0] for words in PLAYERS)
        raise StartError(f"no player found to play with; install one of {names}, or use --output")
    players: list[subprocess.Popen[bytes]] = []

    def write(rate: int, pcm: bytes) -> None:
        if not players:
            words = [word.format(rate=rate) for word in command]
            players.append(stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE)))
        stdin = players[0].stdin
        assert stdin is not None
        try:
            stdin.write(pcm)
        except BrokenPipeError as error:
            raise StartError(f"{command[0]} ended early") from error

    return write


@contextlib.asynccontextmanager
async def _connected(request: ClientOptions) -> AsyncIterator[AsyncClient]:
    until_s = time.monotonic() + request.wait_s
    wyoming = AsyncClient.from_uri(request.uri)
    while True:
        try:
            await wyoming.connect()
            break
        except OSError as error:
            if time.monotonic() >= until_s:
                reason = error.strerror or error
                raise StartError(f"no daemon answers at {request.uri}: {reason} (start one, or use --uri)") from error
        await asyncio.sleep(RETRY_S)  # another process does not signal when it listens
    try:
        yield wyoming
    finally:
        with contextlib.suppress(ConnectionError):
            await wyoming.disconnect()


async def _send_text(wyoming: AsyncClient, request: ClientOptions, pieces: AsyncIterator[str]) -> None:
    voice = SynthesizeVoice(request.voice, speaker=request.speaker) if request.voice else None
    with contextlib.suppress(ConnectionError):  # the reader gets the reason
        await wyoming.write_event(SynthesizeStart(voice=voice).event())
        async for piece in pieces:
            await wyoming.write_event(SynthesizeChunk(piece).event())
        await wyoming.write_event(SynthesizeStop().event())


async def _receive(wyoming: AsyncClient, write: Write, began_s: float) -> ClientResult:
    result = ClientResult()
    async for event in _events(wyoming):
        if AudioChunk.is_type(event.type):
            chunk = AudioChunk.from_event(event)
            result.first_audio_s = result.first_audio_s or time.monotonic() - began_s
            result.chunks += 1
            result.audio_s += chunk.seconds
            write(chunk.rate, chunk.audio)
        elif SynthesizeStopped.is_type(event.type):
            result.total_s = time.monotonic() - began_s
            if not result.audio_s:
                raise SpeechError(Code.SYNTHESIS_FAILED, "the daemon sent no audio")
            return result
        elif not (AudioStart.is_type(event.type) or AudioStop.is_type(event.type)):
            continue
    raise SpeechError(Code.ENGINE_UNAVAILABLE, "the daemon closed the connection before the end of the speech")


async def _events(wyoming: AsyncClient) -> AsyncIterator[Event]:
    """Yield events until the end of the connection. Raises SpeechError for an error event."""
    while (event := await wyoming.read_event()) is not None:
        if Error.is_type(event.type):
            error = Error.from_event(event)
            raise SpeechError(error.code or Code.SYNTHESIS_FAILED, error.text)
        yield event
