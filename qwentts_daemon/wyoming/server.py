"""Asyncio server for the Wyoming protocol 1.10, text to speech: one connection, one reply at a time.

Events are read while a reply is being sent, so a client that leaves, or asks for something else, stops the engine at
once. The order of events is decided by `SpeechExchange`; this module does its I/O and enforces limits and time-outs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from wyoming.event import Event

from ..config.live import LiveConfig
from ..config.schema import Wyoming
from ..errors import Code, SpeechError, WireError, first_error
from ..synthesis.reply import Reply, Synthesizer
from ..voices.catalog import VoiceCatalog
from .exchange import (
    CHARACTER_BYTES,
    EVENT_DATA_BYTES,
    EVENTS,
    SAMPLE_BYTES,
    TEXT_EVENTS,
    Action,
    CountRequest,
    EndText,
    FeedText,
    Interrupt,
    SelectProgram,
    Send,
    SendInfo,
    SpeechExchange,
    StartReply,
)
from .info import info_bytes
from .rate_limit import ClientLimiter, host_of
from .wire import Header, encode_event, read_data, read_header, skip

CLOSE_TIMEOUT_S = 2.0
LINGER_BYTES = 64 * 1024
WARNING_INTERVAL_S = 10.0
REFUSALS = 32
"""The number of rejected clients that receive an error at the same time; further ones are disconnected."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """What every connection needs. Configuration and `catalog` may change, so read both for each request."""

    live: LiveConfig
    synthesizer: Synthesizer
    catalog: Callable[[], VoiceCatalog]
    addresses: ClientLimiter

    @property
    def config(self) -> Wyoming:
        """The configuration section in force."""
        return self.live.current.wyoming


class WarningLimiter:
    """Logs each kind of warning at most once per WARNING_INTERVAL_S, and the others at DEBUG."""

    def __init__(self) -> None:
        self._next_s: dict[str, float] = {}

    def warn(self, kind: str, message: str, *arguments: object) -> None:
        """Log a warning of a kind."""
        now_s = time.monotonic()
        due = now_s >= self._next_s.get(kind, 0.0)
        if due:
            self._next_s[kind] = now_s + WARNING_INTERVAL_S
        log.log(logging.WARNING if due else logging.DEBUG, message, *arguments)


class WyomingServer:
    """Accepts connections up to a limit, and closes them in order."""

    def __init__(self, service: Service, tasks: asyncio.TaskGroup) -> None:
        self._service = service
        self._tasks = tasks
        self._open: dict[WyomingConnection, asyncio.Task[None]] = {}
        self._refusals = 0
        self._warnings = WarningLimiter()

    def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, half_close: bool = False
    ) -> asyncio.Task[None]:
        """Serve a connection in its own task. With `half_close` a client still reads after its end of file."""
        connection = WyomingConnection(self._service, reader, writer, half_close, self._warnings)
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
        self._service.addresses.acquire(connection.address)

    def _leave(self, connection: WyomingConnection) -> None:
        del self._open[connection]
        self._service.addresses.release(connection.address)

    async def _refuse(self, connection: WyomingConnection, error: SpeechError) -> None:
        self._warnings.warn(error.code, "%s refused: %s", connection.peer, error)
        if self._refusals >= REFUSALS:
            connection.cut_off()
            return
        self._refusals += 1
        try:
            await connection.refuse(error)
        finally:
            self._refusals -= 1

    async def drain(self, timeout_s: float) -> None:
        """Let running replies finish for up to `timeout_s`, then close every connection."""
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
    """Log an unexpected exception: a fault with one client must not affect the others."""
    try:
        await work
    except Exception:
        log.exception("internal error at the end of a connection")


class SlowClientGuard:
    """Detects a client that reads a reply slower than real time: it would occupy an engine slot for hours."""

    def __init__(self, grace_s: float) -> None:
        self._margin_s = grace_s

    def sent(self, audio_s: float, blocked_s: float) -> bool:
        """Count a chunk; return False once the client is slower than playback by more than the grace."""
        self._margin_s += audio_s - blocked_s
        return self._margin_s >= 0


class WyomingConnection:
    """One client, from its first event until either side closes: the I/O around a `SpeechExchange`."""

    def __init__(
        self,
        service: Service,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        half_close: bool,
        warnings: WarningLimiter,
    ) -> None:
        self._warnings = warnings
        self._service = service
        self._reader = reader
        self._writer = writer
        self._half_close = half_close
        self._exchange = SpeechExchange(lambda *voice: service.catalog().resolve(*voice))
        self._reply: Reply | None = None  # the last one
        self._speech: asyncio.Task[None] | None = None  # sends its audio
        self._idle = asyncio.timeout(None)
        self._shutting_down = False
        peername = writer.get_extra_info("peername")
        self.address: str | None = peername[0] if isinstance(peername, tuple) else None
        self._owner = (host_of(self.address) if self.address else None) or "local"
        self.peer = f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) else "local"

    @property
    def speech(self) -> asyncio.Task[None] | None:
        """The task that sends a reply, if one runs."""
        return self._speech if self._speech and not self._speech.done() else None

    async def serve(self) -> None:
        """Answer events until the client leaves or violates the protocol."""
        log.debug("%s connected", self.peer)
        error: SpeechError | None = None
        try:
            await self._converse()
        except* (SpeechError, WireError, TimeoutError) as errors:
            error = self._as_speech_error(first_error(errors))
            self._warnings.warn(f"served {error.code}", "%s: %s (%s)", self.peer, error, error.code)
        except* OSError as errors:
            log.info("%s: connection lost: %s", self.peer, first_error(errors))
        except* Exception as errors:
            error = SpeechError(Code.INTERNAL_ERROR, "internal error; see the log of the daemon")
            log.error("%s: internal error", self.peer, exc_info=first_error(errors))
        finally:
            if self._shutting_down and self._speech and self._speech.cancelled():
                error = SpeechError(Code.SHUTTING_DOWN, "this server is shutting down")
            await self._close(error)
            log.debug("%s disconnected", self.peer)

    async def refuse(self, error: SpeechError) -> None:
        """Send an error and close."""
        await self._close(error)

    def cut_off(self) -> None:
        """Close at once, without an error event."""
        self._writer.transport.abort()

    def shut_down(self) -> None:
        """Let the next cancellation of this connection's task send the error `shutting-down`."""
        self._shutting_down = True

    async def _converse(self) -> None:
        async with asyncio.timeout(None) as self._idle, asyncio.TaskGroup() as tasks:
            self._restart_idle_timer()
            while event := await self._receive():
                self._idle.reschedule(None)  # a client is not idle while its event is handled
                for action in self._exchange.receive(event):
                    await self._execute(action, tasks)
                if self._exchange.stream_open and self._reply:
                    self._reply.require_time()  # also if the client only sends pings meanwhile
                self._restart_idle_timer()
                await asyncio.sleep(0)  # reading buffered events never waits: let other tasks run
            for action in self._exchange.receive_eof(self._half_close):
                await self._execute(action, tasks)
            if self.speech and not self._half_close:
                self.speech.cancel()  # its last bytes may still wait for a client that does not read

    async def _receive(self) -> Event | None:
        """Return the next event, without its payload; the body of an unknown one is not even parsed."""
        header = await read_header(self._reader)
        if header is None:
            return None
        if delay_s := self._service.addresses.count_event(self.address, header.size):
            await asyncio.sleep(delay_s)  # meanwhile TCP slows the sender down
        if header.type not in EVENTS:
            await skip(self._reader, header, header.data_length + header.payload_length)
            return Event(header.type)
        data = await read_data(self._reader, header, self._data_limit(header))
        await skip(self._reader, header, header.payload_length)
        return Event(header.type, data)

    def _data_limit(self, header: Header) -> int:
        """Return the greatest length of an event's data. Raises SpeechError for a text that is certainly too long."""
        if header.type not in TEXT_EVENTS:
            return EVENT_DATA_BYTES
        max_length = self._service.live.current.text.max_length
        limit = EVENT_DATA_BYTES + CHARACTER_BYTES * max_length
        if header.data_length > limit:
            raise SpeechError(Code.TEXT_TOO_LONG, f"the text is longer than {max_length} characters (text.max_length)")
        return limit

    async def _execute(self, action: Action, tasks: asyncio.TaskGroup) -> None:
        match action:
            case CountRequest():
                self._service.addresses.count_request(self.address)
            case SendInfo():
                self._writer.write(info_bytes(self._service.catalog(), self._service.config.name))
                await self._drain()
            case Send(event):
                await self._send(event)
            case SelectProgram(name):
                self._select_program(name)
            case Interrupt():
                await self._interrupt()
            case StartReply(request):
                await self._cancel_speech()  # the reply before it has ended, but may still be sending
                self._reply = reply = self._service.synthesizer.reply(request, self.peer, owner=self._owner)
                self._speech = tasks.create_task(self._speak(reply), name=f"reply {reply.name}")
            case FeedText(text):
                await self._last_reply.feed(text)
            case EndText():
                self._last_reply.end_text()

    @property
    def _last_reply(self) -> Reply:
        assert self._reply, "text before a reply"
        return self._reply

    def _select_program(self, name: str | None) -> None:
        if name != self._service.config.name:
            raise SpeechError(
                Code.INVALID_REQUEST, f"no program {name!r:.60}; this server has {self._service.config.name!r}"
            )

    async def _interrupt(self) -> None:
        """Cancel the running reply and send its end."""
        await self._cancel_speech()
        self._write(*self._exchange.end_reply())

    async def _cancel_speech(self) -> None:
        if task := self.speech:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()  # it has just ended by itself, or failed

    async def _speak(self, reply: Reply) -> None:
        guard = SlowClientGuard(self._service.config.write_timeout)
        async with contextlib.aclosing(reply.pcm()) as audio:
            async for pcm in audio:
                began_s = time.monotonic()
                for event in self._exchange.audio(pcm):
                    await self._send(event)
                if not guard.sent(len(pcm.samples) / SAMPLE_BYTES / pcm.rate, time.monotonic() - began_s):
                    self._writer.transport.abort()
                    raise ConnectionAbortedError("it reads more slowly than it would listen")
        self._write(*self._exchange.end_reply())
        await self._drain()
        self._restart_idle_timer(listening=False)

    async def _send(self, event: Event) -> None:
        self._write(event)
        await self._drain()

    def _write(self, *events: Event) -> None:
        if events and not self._writer.is_closing():
            self._writer.write(b"".join(map(encode_event, events)))

    async def _drain(self) -> None:
        """Wait until the client has read most of what was written. Raises ConnectionError after `write_timeout`."""
        try:
            async with asyncio.timeout(self._service.config.write_timeout):
                await self._writer.drain()
        except TimeoutError:
            self._writer.transport.abort()
            raise ConnectionAbortedError(f"nothing read for {self._service.config.write_timeout:g} s") from None

    def _restart_idle_timer(self, listening: bool | None = None) -> None:
        """Let a client be silent while it listens to a reply to a whole text, or else for `idle_timeout`."""
        if listening is None:
            listening = self.speech is not None and not self._exchange.stream_open
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
        """Flush, send the error if there is one, and close, within CLOSE_TIMEOUT_S even if the client does not read."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if error:
                    self._write(*self._exchange.fail(error))
                    await self._linger()
                self._writer.close()
                await self._writer.wait_closed()
        except OSError:  # also TimeoutError, and ENOTCONN from write_eof if the client has left
            self._writer.transport.abort()

    async def _linger(self) -> None:
        """Read what the client still sends: closing a socket with unread bytes resets it and loses the error."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        while await self._reader.read(LINGER_BYTES):
            pass
