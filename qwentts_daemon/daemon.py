"""The composition root: makes every part, connects them, and ends them in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .admission import Admission
from .config import cache_dir
from .engine_setup import check_installation, choose_engines
from .errors import ConfigError
from .listeners import listening
from .sections import Config, Voices
from .session import Speaker
from .shelf import Shelf
from .targets import UrlTarget
from .voices import Catalogue
from .worker_client import Limits, WorkerClient
from .worker_group import WorkerGroup
from .worker_pool import WorkerPool
from .wyoming_server import Service, WyomingServer
from .zeroconf_advert import advertised

if TYPE_CHECKING:
    from .announcer import Announcer

log = logging.getLogger(__name__)


async def serve(config: Config) -> None:
    """Run until SIGTERM, SIGINT or the end of stdin. Raises StartError and ConfigError."""
    check_installation()
    pool = make_pool(config)
    speaker = Speaker(pool, config.audio, config.text)
    catalogues = Catalogues(config, pool)
    service = Service(config.wyoming, speaker, catalogues.current)
    stopping = asyncio.Event()
    _on_signals(stopping)
    async with asyncio.TaskGroup() as connections, AsyncExitStack() as stack:  # left from the last to the first
        server = WyomingServer(service, connections)
        workers = Workers(pool)
        stack.push_async_callback(workers.stop)
        shelf = await stack.enter_async_context(shelved(config, lambda: pool.ready))
        announcer = await stack.enter_async_context(_announcing(config, speaker, catalogues, shelf))
        stack.push_async_callback(_drain, server, announcer, config.daemon.shutdown_timeout)
        listener = await stack.enter_async_context(listening(config.wyoming.uri, server, stopping))
        workers.start()
        if listener.address and config.wyoming.zeroconf:
            await stack.enter_async_context(advertised(config.wyoming.name, *listener.address))
        await workers.run_until(stopping)
        log.info("stopping")
        listener.close()
        speaker.close()


@contextlib.asynccontextmanager
async def _announcing(
    config: Config, speaker: Speaker, catalogues: Catalogues, shelf: Shelf | None
) -> AsyncIterator[Announcer | None]:
    """Announcements by MQTT, if there is a broker; else nothing of them is even imported."""
    if not config.mqtt.host:
        yield None
        return
    from .announcing import Surroundings, announcing
    from .mqtt_commands import Controls

    async with announcing(config, Surroundings(speaker, catalogues.current, shelf, Controls())) as announcer:
        yield announcer


async def _drain(server: WyomingServer, announcer: Announcer | None, timeout_s: float) -> None:
    """Let everything that is being spoken come to its end, for up to `timeout_s`."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.drain(timeout_s), name="drain wyoming")
        if announcer:
            tasks.create_task(announcer.drain(timeout_s), name="drain announcements")


@contextlib.asynccontextmanager
async def shelved(config: Config, is_ready: Callable[[], bool]) -> AsyncIterator[Shelf | None]:
    """The HTTP server and its shelf, where one is wanted. Raises StartError."""
    if not (config.http.enabled or any(isinstance(target, UrlTarget) for target in config.announce.targets.values())):
        yield None
        return
    from .http_server import serving  # loads aiohttp

    async with serving(config.http, cache_dir(config, os.environ), is_ready) as shelf:
        yield shelf


def make_pool(config: Config) -> WorkerPool:
    """The workers that the configuration asks for, not started yet."""
    limits = Limits(config.engine.job_timeout, config.engine.heartbeat_timeout, config.engine.restart_delay_max)
    engines = choose_engines(config, os.environ)
    groups = []
    for workers in engines:
        admission = Admission(config.queue.max_size, config.queue.max_wait, covered=workers is not engines[-1])
        groups.append(WorkerGroup([WorkerClient(each, limits, admission) for each in workers], admission))
    return WorkerPool(groups[0], groups[1] if len(groups) > 1 else None, config.voices.language)


class Workers:
    """The pool's task: begun once the sockets are there, ended after the last reply."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load."""
        self._task = asyncio.create_task(self._pool.run(), name="workers")

    async def run_until(self, stopping: asyncio.Event) -> None:
        """Returns when `stopping` is set. Raises what ends the pool before."""
        assert self._task, "start comes first"
        waiting = asyncio.create_task(stopping.wait(), name="stopping")
        try:
            await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """End every worker process."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])


class Catalogues:
    """The catalogue of the pool's voices, made again only when they change."""

    def __init__(self, config: Config, pool: WorkerPool) -> None:
        self._config = config
        self._pool = pool
        self._voices = pool.voices
        self._catalogue = self._made()

    def current(self) -> Catalogue:
        """The catalogue as of now."""
        if self._pool.voices != self._voices:
            self._voices = self._pool.voices
            self._catalogue = self._renewed()
        return self._catalogue

    def _made(self) -> Catalogue:
        catalogue = Catalogue(self._voices, self._config.voices, self._pool.takes_new_voices)
        for problem in catalogue.awaited:
            log.warning("%s; it may still come", problem)
        return catalogue

    def _renewed(self) -> Catalogue:
        try:
            return self._made()
        except ConfigError as error:
            log.error("the engine's voices no longer fit the configuration, which is left aside: %s", error)
            return Catalogue(self._voices, Voices())


def _on_signals(stopping: asyncio.Event) -> None:
    """The first signal ends in order, the second at once (a worker dies with its parent)."""

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def program_uri(config: Config) -> str:
    """Where this daemon's own commands find it: the wildcard address is no address to connect to."""
    parts = urlsplit(config.wyoming.uri)
    if parts.scheme == "stdio":
        raise ConfigError("wyoming.uri: nobody can connect to stdio://; use --uri with tcp:// or unix://")
    if parts.scheme == "tcp" and parts.hostname in ("0.0.0.0", "::"):
        return f"tcp://127.0.0.1:{parts.port}"
    return config.wyoming.uri
