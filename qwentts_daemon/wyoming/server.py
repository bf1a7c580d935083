"""The Wyoming protocol 1.10 for text to speech: one connection, one reply at a time.

Events are read while a reply is being spoken, so that a client that goes away or asks for something else stops
the engine at once. A reply is exactly one audio-start, audio-chunks and one audio-stop, then synthesize-stopped if
it was streamed; a failure is an error event before any audio-stop, then the end of the connection. Home Assistant
depends on each of these.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Pong
from wyoming.tts import SynthesizeStopped

from ..config.live import LiveConfig
from ..config.schema import Wyoming
from ..errors import Code, SpeechError, WireError
from ..synthesis.reply import Reply, Synthesizer
from ..voices.catalog import VoiceCatalog
from .info import info_bytes
from .pace import SlowClientGuard
from .rate_limit import ClientLimiter
from .wire import encode_event, read_event

SAMPLE_BYTES = 2
CLOSE_TIMEOUT_S = 2.0
LINGER_BYTES = 64 * 1024
WARNING_INTERVAL_S = 10.0
"""Refusals of one kind are said aloud so seldom; whoever sends them would fill the log else."""
REFUSALS = 32
"""Refused clients that are told why at the same time; more are cut off at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """What every connection needs. Both configuration and `catalogue` are asked each time, since they may change."""

    live: LiveConfig
    speaker: Synthesizer
    catalogue: Callable[[], VoiceCatalog]
    addresses: ClientLimiter

    @property
    def config(self) -> Wyoming:
        """What is in force for the server now."""
        return self.live.now.wyoming


class WyomingServer:
    """Accepts connections, up to a limit, and ends them in order."""

    def __init__(self, service: Service, tasks: asyncio.TaskGroup) -> None:
        self._service = service
        self._tasks = tasks
        self._open: dict[WyomingConnection, asyncio.Task[None]] = {}
        self._refusals = 0
        self._next_warning_s: dict[str, float] = {}

    def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, half_close: bool = False
    ) -> asyncio.Task[None]:
        """Serve one connection in a task of its own. With `half_close` a client that has sent all still listens."""
        connection = WyomingConnection(self._service, reader, writer, half_close)
        try:
            self._admit(connection)
        except SpeechError as error:
            return self._tasks.create_task(_guarded(self._refuse(connection, error)), name=f"refuse {connection.peer}")
        task = self._tasks.create_task(_guarded(connection.serve()), name=f"wyoming {connection.peer}")
        self._open[connection] = task
        task.add_done_callback(lambda _: self._leave(connection))
        return task

    def _admit(self, connection: WyomingConnection) -> None:
        limit = self._service.config.max_connections
        if len(self._open) >= limit:
            raise SpeechError(
                Code.TOO_MANY_CONNECTIONS, f"{limit} connections are open (wyoming.max_connections); try again later"
            )
        self._service.addresses.enter(connection.address)

    def _leave(self, connection: WyomingConnection) -> None:
        del self._open[connection]
        self._service.addresses.leave(connection.address)

    async def _refuse(self, connection: WyomingConnection, error: SpeechError) -> None:
        self._warn(connection.peer, error)
        if self._refusals >= REFUSALS:
            connection.cut_off()
            return
        self._refusals += 1
        try:
            await connection.refuse(error)
        finally:
            self._refusals -= 1

    def _warn(self, peer: str, error: SpeechError) -> None:
        now_s = asyncio.get_running_loop().time()
        due = now_s >= self._next_warning_s.get(error.code, 0.0)
        if due:
            self._next_warning_s[error.code] = now_s + WARNING_INTERVAL_S
        log.log(logging.WARNING if due else logging.DEBUG, "%s refused: %s", peer, error)

    async def drain(self, timeout_s: float) -> None:
        """Let running replies finish for up to `timeout_s`, then end every connection."""
        speeches = [speech for connection in self._open if (speech := connection.speech)]
        if speeches:
            log.info("waiting up to %g s for %d running replies", timeout_s, len(speeches))
            await asyncio.wait(speeches, timeout=timeout_s)
        tasks = list(self._open.values())
        for connection, task in self._open.items():
            connection.shut_down()
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _guarded(work: Coroutine[None, None, None]) -> None:
    """No fault in the service of one client may reach the others."""
    try:
        await work
    except Exception:
        log.exception("internal error at the end of a connection")


@dataclass(slots=True)
class Speech:
    """One reply on its way to a client."""

    reply: Reply
    streaming: bool
    audio_started: bool = False
    finished: bool = False
    task: asyncio.Task[None] = field(init=False)


class WyomingConnection:
    """One client, from its first event until either side closes."""

    def __init__(
        self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, half_close: bool
    ) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        self._half_close = half_close
        self._stream: Reply | None = None  # its text is still arriving
        self._speech: Speech | None = None
        self._idle = asyncio.timeout(None)
        self._shutting_down = False
        peername = writer.get_extra_info("peername")
        self.address: str | None = peername[0] if isinstance(peername, tuple) else None
        self.peer = f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) else "local"

    @property
    def speech(self) -> asyncio.Task[None] | None:
        """The reply being spoken, if any."""
        return self._speech.task if self._speech and not self._speech.task.done() else None

    async def serve(self) -> None:
        """Answer events until the client leaves or breaks a rule."""
        log.debug("%s connected", self.peer)
        error: SpeechError | None = None
        try:
            await self._converse()
        except* (SpeechError, WireError, TimeoutError) as errors:
            error = self._as_speech_error(_first(errors))
            log.warning("%s: %s (%s)", self.peer, error, error.code)
        except* OSError as errors:
            log.info("%s: connection lost: %s", self.peer, _first(errors))
        except* Exception as errors:
            error = SpeechError(Code.INTERNAL_ERROR, "internal error; see the log of the daemon")
            log.error("%s: internal error", self.peer, exc_info=_first(errors))
        finally:
            if self._shutting_down and self._speech and self._speech.task.cancelled():
                error = SpeechError(Code.SHUTTING_DOWN, "this server is shutting down")
            await self._close(error)
            log.debug("%s disconnected", self.peer)

    async def refuse(self, error: SpeechError) -> None:
        """Say why there is no place, and close."""
        await self._close(error)

    def cut_off(self) -> None:
        """Close without a word."""
        self._writer.transport.abort()

    def shut_down(self) -> None:
        """Tell why, when this connection's task is cancelled next."""
        self._shutting_down = True

    async def _converse(self) -> None:
        async with asyncio.timeout(None) as self._idle, asyncio.TaskGroup() as tasks:
            self._restart_idle_clock()
            while event := await read_event(self._reader):
                await self._handle(event, tasks)
                if self._stream:
                    self._stream.require_time()  # also of a client that only sends pings meanwhile
                self._restart_idle_clock()
                await asyncio.sleep(0)  # reading what is buffered already never waits: let the others have a turn
            if self.speech and not self._half_close:
                self.speech.cancel()

    # --- events in --------------------------------------------------------------------------------------------

    async def _handle(self, event: Event, tasks: asyncio.TaskGroup) -> None:
        match event.type:
            case "describe":
                self._service.addresses.ask(self.address)
                self._writer.write(info_bytes(self._service.catalogue(), self._service.config.name))
                await self._drain()
            case "ping":
                await self._send(Pong(_word(event.data, "text")).event())
            case "select-program":
                self._select_program(event)
            case "synthesize" if not self._stream:  # inside a stream it only repeats the text, for old servers
                reply = await self._new_reply(event, tasks, streaming=False)
                reply.feed(_text(event))
                reply.end_text()
            case "synthesize-start":
                self._stream = await self._new_reply(event, tasks, streaming=True)
            case "synthesize-chunk":
                self._open_stream(event).feed(_text(event))
            case "synthesize-stop":
                self._open_stream(event).end_text()
                self._stream = None
            case _:
                log.debug("%s sent %s, ignored", self.peer, event.type[:40])

    async def _new_reply(self, event: Event, tasks: asyncio.TaskGroup, streaming: bool) -> Reply:
        """Begin to speak; what this client was being told before is cancelled."""
        self._service.addresses.ask(self.address)
        text_format = event.data.get("text_format")
        if text_format not in (None, "text"):
            raise SpeechError(Code.TEXT_FORMAT_NOT_SUPPORTED, f"text_format {text_format!r:.40} is not supported")
        voice = event.data.get("voice") or {}
        if not isinstance(voice, dict):
            raise SpeechError(Code.INVALID_REQUEST, "voice must be an object")
        name, language, speaker = (_word(voice, key) or None for key in ("name", "language", "speaker"))
        request = self._service.catalogue().resolve(name, language, speaker)
        await self._interrupt()
        reply = self._service.speaker.reply(request, self.peer)
        self._speech = Speech(reply, streaming)
        self._speech.task = tasks.create_task(self._speak(self._speech), name=f"reply {reply.name}")
        return reply

    async def _interrupt(self) -> None:
        """Stop what is being spoken and end it in order: this client goes on with something else."""
        self._stream = None
        if (task := self.speech) and self._speech:
            task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                self._finish(self._speech)

    def _open_stream(self, event: Event) -> Reply:
        if self._stream is None:
            raise SpeechError(Code.INVALID_REQUEST, f"{event.type} without synthesize-start")
        return self._stream

    def _select_program(self, event: Event) -> None:
        name = _word(event.data, "name")
        if name != self._service.config.name:
            raise SpeechError(
                Code.INVALID_REQUEST, f"no program {name!r:.60}; this server has {self._service.config.name!r}"
            )

    # --- events out -------------------------------------------------------------------------------------------

    async def _speak(self, speech: Speech) -> None:
        pace = SlowClientGuard(self._service.config.write_timeout)
        async with contextlib.aclosing(speech.reply.pcm()) as audio:
            async for pcm in audio:
                if not speech.audio_started:
                    speech.audio_started = True
                    await self._send(AudioStart(pcm.rate, SAMPLE_BYTES, 1).event())
                began_s = time.monotonic()
                await self._send(AudioChunk(pcm.rate, SAMPLE_BYTES, 1, pcm.samples).event())
                if not pace.sent(len(pcm.samples) / SAMPLE_BYTES / pcm.rate, time.monotonic() - began_s):
                    self._writer.transport.abort()
                    raise ConnectionAbortedError("it reads more slowly than it would listen")
        self._finish(speech)
        await self._drain()
        self._restart_idle_clock(listening=False)

    def _finish(self, speech: Speech) -> None:
        """The end of a reply, also of one that was interrupted."""
        if speech.finished:
            return
        speech.finished = True
        if speech.audio_started:
            self._write(AudioStop().event())
        if speech.streaming:
            self._write(SynthesizeStopped().event())

    async def _send(self, event: Event) -> None:
        self._write(event)
        await self._drain()

    def _write(self, event: Event) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode_event(event))

    async def _drain(self) -> None:
        """Wait until the client has taken most of what was written. Raises ConnectionError when it does not."""
        try:
            async with asyncio.timeout(self._service.config.write_timeout):
                await self._writer.drain()
        except TimeoutError:
            self._writer.transport.abort()
            raise ConnectionAbortedError(f"nothing read for {self._service.config.write_timeout:g} s") from None

    def _restart_idle_clock(self, listening: bool | None = None) -> None:
        """A client may be silent while it listens to a whole text, or for `idle_timeout`."""
        if listening is None:
            listening = self.speech is not None and self._stream is None
        now_s = asyncio.get_running_loop().time()
        self._idle.reschedule(None if listening else now_s + self._service.config.idle_timeout)

    def _as_speech_error(self, error: BaseException) -> SpeechError:
        if isinstance(error, SpeechError):
            return error
        if isinstance(error, TimeoutError):
            idle_s = self._service.config.idle_timeout
            return SpeechError(Code.IDLE_TIMEOUT, f"nothing was sent for {idle_s:g} s (wyoming.idle_timeout)")
        return SpeechError(Code.INVALID_REQUEST, str(error))

    async def _close(self, error: SpeechError | None) -> None:
        """Send what is written, and why this is the end; a client that does not read cannot hold us up."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if error:
                    self._write(Error(str(error), error.code).event())
                    await self._linger()
                self._writer.close()
                await self._writer.wait_closed()
        except OSError:  # also ENOTCONN from write_eof, when the client is gone already; and TimeoutError
            self._writer.transport.abort()

    async def _linger(self) -> None:
        """Read what a client still sends: closing on unread bytes would reset the connection and lose the error."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        while await self._reader.read(LINGER_BYTES):
            pass


def _text(event: Event) -> str:
    text = event.data.get("text")
    if not isinstance(text, str):
        raise SpeechError(Code.INVALID_REQUEST, f"{event.type} has no text")
    return text


def _word(data: dict[str, object], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise SpeechError(Code.INVALID_REQUEST, f"{key} must be a text")
    return value


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
