"""The HTTP server: recordings while they are written and after, and the daemon's health."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from aiohttp import web

from ..config.schema import Http
from ..errors import StartError
from ..network import reachable_addresses
from .recordings import RecordingStore, StorageLimits, StoredRecording

BACKLOG = 64
MAX_CONNECTIONS = 128
PIECE_BYTES = 64 * 1024
WRITE_TIMEOUT_S = 30.0  # a player that reads nothing for this long is disconnected
KEEPALIVE_S = 15.0
SHUTDOWN_S = 1.0  # for clients that have already received the end
PATH = "/audio/{identity}.wav"

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def serving(http: Http, directory: Path, is_ready: Callable[[], bool]) -> AsyncIterator[RecordingStore]:
    """Serve the recordings of the store while the context is open. Raises StartError."""
    _prepare(directory)
    with _listener(http) as listener:
        port = listener.getsockname()[1]
        space = StorageLimits(directory, http.cache_megabytes * 1_000_000, http.keep)
        store = RecordingStore(space, lambda identity: base_url(http, port) + PATH.format(identity=identity))
        runner = web.AppRunner(
            application(store, http.max_listeners, is_ready),
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=SHUTDOWN_S,
        )
        await runner.setup()
        async with contextlib.AsyncExitStack() as stack:  # left from the last to the first
            stack.push_async_callback(runner.cleanup)
            stack.callback(store.close)
            stack.callback((await _accept(runner, listener)).close)
            log.info("listening on http://%s:%d, reached as %s", http.host, port, base_url(http, port))
            yield store


async def _accept(runner: web.AppRunner, listener: socket.socket) -> asyncio.Server:
    """Accept connections up to a limit."""
    server = runner.server
    assert server

    def connected() -> asyncio.Protocol:
        return server() if len(server.connections) < MAX_CONNECTIONS else RejectedConnection()

    return await asyncio.get_running_loop().create_server(connected, sock=listener, backlog=BACKLOG)


class RejectedConnection(asyncio.Protocol):
    """Rejects a connection above the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def base_url(http: Http, port: int) -> str:
    """Return the start of addresses: as configured, or the first address of this machine that others can reach."""
    if http.public_url:
        return http.public_url
    unreachable = "127.0.0.1" if http.host in ("0.0.0.0", "::") else http.host
    host = next(iter(reachable_addresses(http.host)), unreachable)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def application(store: RecordingStore, max_listeners: int, is_ready: Callable[[], bool]) -> web.Application:
    """Return the routes."""
    pages = RequestHandler(store, max_listeners, is_ready)
    app = web.Application()
    app.add_routes([web.get(PATH, pages.audio), web.get("/healthz", pages.healthz), web.get("/readyz", pages.readyz)])
    return app


@dataclass(frozen=True, slots=True)
class RequestHandler:
    """Answers requests."""

    store: RecordingStore
    max_listeners: int
    is_ready: Callable[[], bool]

    async def healthz(self, request: web.Request) -> web.Response:
        """Answer that the daemon runs."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Answer whether it can speak."""
        if self.is_ready():
            return web.Response(text="ready\n")
        return web.Response(text="no voice is ready yet\n", status=503)

    async def audio(self, request: web.Request) -> web.StreamResponse:
        """Send a recording from its start, also while it grows; any range once it is complete."""
        recording = self.store.find(request.match_info["identity"])
        if recording is None:
            raise web.HTTPNotFound(text="this announcement does not exist any more, or never did\n")
        if request.method == "HEAD":
            return _begun(recording, None)
        if self.store.listeners >= self.max_listeners:
            raise web.HTTPServiceUnavailable(text="too many listen already\n", headers={"Retry-After": "5"})
        with recording.listening():
            part = _asked(request, recording)
            response = _begun(recording, part)
            await response.prepare(request)
            if not await _sent(response, recording, part) and request.transport:
                request.transport.abort()  # so that the client does not take it for complete
            return response


def _asked(request: web.Request, recording: StoredRecording) -> range | None:
    """Return the byte range of a Range header; None for everything, also if the header is not understood."""
    if not recording.is_complete or request.headers.get("If-Range", _etag(recording)) != _etag(recording):
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None
    if asked.start is None and asked.stop is None:
        return None
    part = range(recording.size)[asked]
    if not part:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{recording.size}"})
    return part


def _begun(recording: StoredRecording, part: range | None) -> web.StreamResponse:
    """Return the response head. The length of a growing recording is unknown, and it is sent from the start only."""
    response = web.StreamResponse(status=206 if part else 200)
    response.content_type = "audio/wav"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Accept-Ranges"] = "bytes" if recording.is_complete else "none"
    if recording.is_complete:
        response.headers["ETag"] = _etag(recording)
        response.content_length = len(part) if part else recording.size
    if part:
        response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{recording.size}"
    return response


async def _sent(response: web.StreamResponse, recording: StoredRecording, part: range | None) -> bool:
    """Send the body as it grows. Return False if the recording was withdrawn or the client stopped reading."""
    position, end = (part.start, part.stop) if part else (0, sys.maxsize)
    try:
        while position < end:
            await recording.grown(position)
            if recording.is_withdrawn:
                return False
            piece = recording.read(position, min(PIECE_BYTES, end - position))
            if not piece:
                break
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await response.write(piece)
            position += len(piece)
    except (TimeoutError, ConnectionError):
        return False
    return True


def _etag(recording: StoredRecording) -> str:
    return f'"{recording.identity}"'


def _prepare(directory: Path) -> None:
    """Prepare the directory of temporary files. Raises StartError if it cannot be created."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        TemporaryFile(dir=directory).close()
    except OSError as error:
        raise StartError(f"{directory}: {error.strerror} (http.cache_dir)", os.EX_CANTCREAT) from error


def _listener(http: Http) -> socket.socket:
    url = f"http://{http.host}:{http.port}"
    try:
        (family, *_, address), *_ = socket.getaddrinfo(
            http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=http.host == "::")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"{url} is in use already; choose another port (http.port)") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise StartError(f"{url}: permission denied (http.port)", os.EX_NOPERM) from error
        raise StartError(f"{url}: {error.strerror or error} (http.host)") from error
