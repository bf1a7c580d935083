"""A Wyoming client for the command line, which uses a running daemon as Home Assistant does."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import re
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

from ..audio.wav import header as wav_header
from ..errors import Code, SpeechError, StartError
from ..suggestions import fold_name

RETRY_S = 0.1
WAV_SUFFIXES = ("", ".wav", ".wave")
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
        result = await _receive(_events(wyoming, request.uri), write, began_s)
        sender.cancel()
    return result


async def voices(request: ClientOptions) -> list[TtsVoice]:
    """Return the voices that the daemon lists."""
    return [voice for program in await programs(request) for voice in program.voices]


async def programs(request: ClientOptions) -> list[TtsProgram]:
    """Return the programs and voices of the daemon."""
    async with _connected(request) as wyoming:
        await wyoming.write_event(Describe().event())
        async for event in _events(wyoming, request.uri):
            if Info.is_type(event.type):
                return Info.from_event(event).tts
    raise SpeechError(Code.ENGINE_UNAVAILABLE, "the daemon closed the connection without an answer")


async def whole(text: str) -> AsyncIterator[str]:
    """Yield a text that is complete."""
    yield text


async def stdin_pieces() -> AsyncIterator[str]:
    """Yield standard input as it arrives."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()):
        yield sys.stdin.buffer.read().decode(errors="replace")  # epoll does not take files and /dev/null
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
    if output.suffix.lower() not in WAV_SUFFIXES:
        raise StartError(f"{output}: only WAV can be written; use {output.with_suffix('.wav')}", os.EX_USAGE)
    append: list[Callable[[bytes], object]] = []

    def write(rate: int, pcm: bytes) -> None:
        if not append:
            append.append(_wav_appender(stack, output, rate))
        append[0](pcm)

    return write


def _wav_appender(stack: contextlib.ExitStack, path: Path, rate: int) -> Callable[[bytes], object]:
    """Open a WAV file, or standard output for `-`. What cannot be rewound gets a header for audio of unknown length."""
    try:
        file = sys.stdout.buffer if str(path) == "-" else stack.enter_context(path.open("wb"))
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}", os.EX_CANTCREAT) from error
    if file.seekable() and file is not sys.stdout.buffer:
        wav: wave.Wave_write = stack.enter_context(wave.open(file, "wb"))  # noqa: SIM115 (it is entered here)
        wav.setparams((1, 2, rate, 0, "NONE", ""))
        return wav.writeframesraw
    file.write(wav_header(rate, None))

    def append(pcm: bytes) -> None:
        file.write(pcm)
        file.flush()

    return append


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
                reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error
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


async def _receive(events: AsyncIterator[Event], write: Write, began_s: float) -> ClientResult:
    result = ClientResult()
    async for event in events:
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


async def _events(wyoming: AsyncClient, uri: str) -> AsyncIterator[Event]:
    """Yield events until the connection ends. Raises SpeechError for an error event, StartError without any event."""
    known = False
    while (event := await _next_event(wyoming, uri)) is not None:
        if Error.is_type(event.type):
            error = Error.from_event(event)
            raise SpeechError(error.code or Code.SYNTHESIS_FAILED, error.text)
        known = True
        yield event
    if not known:
        raise _not_wyoming(uri)


async def _next_event(wyoming: AsyncClient, uri: str) -> Event | None:
    try:
        return await wyoming.read_event()
    except ConnectionError:  # a write to a connection that the server has closed
        return None
    except (ValueError, KeyError) as error:
        raise _not_wyoming(uri) from error


def _not_wyoming(uri: str) -> StartError:
    return StartError(f"no Wyoming server at {uri}: what answers there does not speak the protocol (use --uri)")


def unlisted(programs: list[TtsProgram], voice: str, style: str | None) -> str | None:
    """Return a warning if the daemon does not list a voice or its style, so that another one may speak."""
    base = fold_name(re.split("[@+]", voice)[0])
    found = next((each for program in programs for each in program.voices if fold_name(each.name) == base), None)
    if found is None:
        return f"the daemon does not list the voice {voice!r}; the voice that speaks may be another"
    if style and fold_name(style) not in (fold_name(speaker.name) for speaker in found.speakers or ()):
        return f"the voice {voice!r} does not list the style {style!r}; it may speak without it"
    return None
