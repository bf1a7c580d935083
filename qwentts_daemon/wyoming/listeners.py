"""The sockets behind a Wyoming URI: tcp://, unix:// and stdio://."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

from ..errors import StartError
from .server import WyomingServer
from .wire import HEADER_BYTES

BACKLOG = 128
SOCKET_NAME = "wyoming"
COMPLAINT_INTERVAL_S = 10.0
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger(__name__)


SocketsByName = Mapping[str, Sequence[socket.socket]]


@dataclass(frozen=True, slots=True)
class Listener:
    """An open listener: `address` is host and port of a TCP socket, else None; `close` stops accepting connections."""

    address: tuple[str, int] | None
    close: Callable[[], None]


@contextlib.asynccontextmanager
async def listening(
    uri: str, server: WyomingServer, finished: asyncio.Event, given: SocketsByName
) -> AsyncIterator[Listener]:
    """Accept connections for `server` while the context is open, on the sockets from systemd or else on `uri`.

    `finished` is set at the end of stdin, after which no client can connect. Raises StartError.
    """
    inherited = _for_wyoming(given)
    asyncio.get_running_loop().set_exception_handler(_AcceptErrorLog())
    if not inherited and urlsplit(uri).scheme == "stdio":
        await _serve_stdio(server, finished)
        yield Listener(None, lambda: None)
        return
    async with contextlib.AsyncExitStack() as stack:
        listeners = inherited or [stack.enter_context(_bound(uri))]
        acceptors = []
        for listener in listeners:
            stack.callback(listener.close)
            acceptor = await asyncio.start_server(_accept_with(server), sock=listener, limit=HEADER_BYTES)
            stack.callback(acceptor.close)
            acceptors.append(acceptor)
            log.info("listening on %s%s", _name(listener), ", opened by systemd" if inherited else "")
        addresses = [each.getsockname()[:2] for each in listeners if each.family != socket.AF_UNIX]
        yield Listener(next(iter(addresses), None), _close_all(acceptors))


def _close_all(acceptors: Sequence[asyncio.Server]) -> Callable[[], None]:
    def close() -> None:
        for acceptor in acceptors:
            acceptor.close()

    return close


def _for_wyoming(given: SocketsByName) -> list[socket.socket]:
    """Return the sockets of systemd for this server: those named `wyoming`, or a single unnamed one."""
    known = given.get(SOCKET_NAME) or (given.get("unknown", ()) if len(given) == 1 else ())
    for name in (name for name, sockets in given.items() if sockets is not known):
        log.warning("a socket from systemd has the unknown name %r", name)
    return list(known)


def _name(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix://{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


@contextlib.contextmanager
def _bound(uri: str) -> Iterator[socket.socket]:
    """Open a listening socket; remove the path of a unix socket at the end."""
    parts = urlsplit(uri)
    path = Path(unquote(parts.path)) if parts.scheme == "unix" else None
    listener = _unix_socket(path) if path else _tcp_socket(uri)
    try:
        yield listener
    finally:
        listener.close()
        if path:
            _remove(path)


class _AcceptErrorLog:
    """Logs at intervals that connections cannot be accepted; asyncio alone would log it a hundred times a second."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in EXHAUSTED):
            loop.default_exception_handler(context)
        elif loop.time() >= self._next_s:
            self._next_s = loop.time() + COMPLAINT_INTERVAL_S
            log.error("connections cannot be accepted at present: %s", error.strerror)


def _accept_with(server: WyomingServer) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.accept(reader, writer)

    return accept


def _tcp_socket(uri: str) -> socket.socket:
    parts = urlsplit(uri)
    host, port = parts.hostname or "", parts.port or 0
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"wyoming.uri {uri}: {error.strerror}") from error
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
    except OSError as error:
        raise _start_error(uri, error) from error


def _unix_socket(path: Path) -> socket.socket:
    """Return a socket for its owner and group; the path of a daemon that has ended is reused."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _start_error(f"unix://{path}", error) from error
    return listener


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # its directory may be gone already
        path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _start_error(uri: str, error: OSError) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return StartError(f"{uri} is in use already; is another daemon running? (wyoming.uri)")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartError(f"{uri}: permission denied (wyoming.uri)", os.EX_NOPERM)
    return StartError(f"{uri}: {error.strerror or error} (wyoming.uri)")


async def _serve_stdio(server: WyomingServer, finished: asyncio.Event) -> None:
    if not (_is_pipe(sys.stdin) and _is_pipe(sys.stdout)):
        raise StartError("stdio:// needs pipes or sockets as standard input and output", os.EX_USAGE)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=HEADER_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    unread = asyncio.StreamReader()  # a pipe to write to has a protocol for flow control, which wants a reader
    transport, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(unread), sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, unread, loop)
    server.accept(reader, writer, half_close=True).add_done_callback(lambda _: finished.set())


def _is_pipe(stream: TextIO | None) -> bool:
    """Whether the event loop can wait for a stream: not for a file or /dev/null."""
    if stream is None:
        return False
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stream.isatty()
