"""The composition root: makes every part, connects them, and ends them in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .config.live import LiveConfig
from .config.paths import cache_dir
from .config.schema import Config
from .config.target_schema import UrlTarget
from .errors import ConfigError
from .http.recordings import RecordingStore
from .service.reload import Reload
from .service.sd_notify import take_notifier, take_sockets, take_watchdog_s
from .service.watchdog import WatchdogReporter
from .synthesis.reply import Synthesizer
from .synthesis.voice_registry import VoiceRegistry
from .workers.client import WorkerClient
from .workers.engine_settings import check_installation, choose_engines
from .workers.group import WorkerGroup
from .workers.idle import IdleManager
from .workers.pool import WorkerPool
from .workers.queue import JobQueue
from .wyoming.listeners import listening
from .wyoming.rate_limit import ClientLimiter, allow_descriptors
from .wyoming.server import Service, WyomingServer
from .wyoming.zeroconf import advertised

if TYPE_CHECKING:
    from .announcements.announcer import Announcer

STOP_MARGIN_S = 10.0

log = logging.getLogger(__name__)


async def serve(live: LiveConfig) -> None:
    """Run until SIGTERM, SIGINT or the end of stdin. Raises StartError and ConfigError."""
    check_installation()
    notifier, watchdog_s, given = take_notifier(os.environ), take_watchdog_s(os.environ), take_sockets(os.environ)
    stopping, changed = asyncio.Event(), asyncio.Event()
    pool = make_pool(live, changed.set)
    catalogues = VoiceRegistry(live, pool)
    speaker = Synthesizer(pool, live)
    reload = Reload(live, pool, catalogues.check, notifier)
    supervision = WatchdogReporter(live, pool, notifier, changed, watchdog_s)
    allow_descriptors(live.now.wyoming.max_connections)
    _on_signals(stopping, reload.asked)
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:  # left from the last to the first
        stack.callback(tasks.create_task(supervision.run(stopping.is_set), name="supervision").cancel)
        server = WyomingServer(Service(live, speaker, catalogues.current, ClientLimiter(live)), tasks)
        workers = PoolTask(pool)
        stack.push_async_callback(workers.stop)
        shelf = await stack.enter_async_context(shelved(live.now, lambda: pool.ready))
        announcer = await stack.enter_async_context(_announcing(live.now, speaker, catalogues, shelf, reload))
        stack.push_async_callback(lambda: _drain(server, announcer, live.now.daemon.shutdown_timeout))
        listener = await stack.enter_async_context(listening(live.now.wyoming.uri, server, stopping, given))
        workers.start()
        notifier.ready()
        stack.callback(tasks.create_task(reload.run(), name="reload").cancel)
        if listener.address and live.now.wyoming.zeroconf:
            await stack.enter_async_context(advertised(live.now.wyoming.name, *listener.address))
        await workers.run_until(stopping)
        log.info("stopping")
        notifier.stopping(live.now.daemon.shutdown_timeout + STOP_MARGIN_S)
        changed.set()
        listener.close()
        speaker.close()


@contextlib.asynccontextmanager
async def _announcing(
    config: Config, speaker: Synthesizer, catalogues: VoiceRegistry, shelf: RecordingStore | None, reload: Reload
) -> AsyncIterator[Announcer | None]:
    """Announcements by MQTT, if there is a broker; else nothing of them is even imported."""
    if not config.mqtt.host:
        if config.announce.targets:
            log.warning("announce.targets: without a broker (mqtt.host) nobody can announce anything")
        yield None
        return
    from .mqtt.commands import DaemonControls
    from .mqtt.service import Dependencies, announcing

    controls = DaemonControls(reload.asked.set, speaker.pool.primary.unload)
    async with announcing(config, Dependencies(speaker, catalogues.current, shelf, controls)) as announcer:
        yield announcer


async def _drain(server: WyomingServer, announcer: Announcer | None, timeout_s: float) -> None:
    """Let everything that is being spoken come to its end, for up to `timeout_s`."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.drain(timeout_s), name="drain wyoming")
        if announcer:
            tasks.create_task(announcer.drain(timeout_s), name="drain announcements")


@contextlib.asynccontextmanager
async def shelved(config: Config, is_ready: Callable[[], bool]) -> AsyncIterator[RecordingStore | None]:
    """The HTTP server and its shelf, where one is wanted. Raises StartError."""
    if not (config.http.enabled or any(isinstance(target, UrlTarget) for target in config.announce.targets.values())):
        yield None
        return
    from .http.server import serving  # loads aiohttp

    async with serving(config.http, cache_dir(config, os.environ), is_ready) as shelf:
        yield shelf


def make_pool(live: LiveConfig, changed: Callable[[], None] = lambda: None) -> WorkerPool:
    """The workers that the configuration asks for, not started yet. `changed` is called when one does more or less."""
    engines = choose_engines(live.now, os.environ)
    groups = []
    for workers in engines:
        queue = JobQueue(live, has_fallback=workers is not engines[-1], changed=changed)
        idle = IdleManager(live.now.engine.keep_alive_s if workers is engines[0] else None)
        clients = [WorkerClient(each, live, queue, idle) for each in workers]
        groups.append(WorkerGroup(clients, queue, idle))
    return WorkerPool(live, groups[0], groups[1] if len(groups) > 1 else None)


class PoolTask:
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


def _on_signals(stopping: asyncio.Event, reload: asyncio.Event) -> None:
    """The first signal ends in order, the second at once (a worker dies with its parent); SIGHUP reloads."""
    terminal = sys.stdin is not None and sys.stdin.isatty()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    def hang_up() -> None:
        closed = terminal and not os.isatty(sys.stdin.fileno())  # then it tells that, and nobody wants a reload
        (stopping if closed else reload).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, hang_up)


def program_uri(config: Config) -> str:
    """Where this daemon's own commands find it: the wildcard address is no address to connect to."""
    parts = urlsplit(config.wyoming.uri)
    if parts.scheme == "stdio":
        raise ConfigError("wyoming.uri: nobody can connect to stdio://; use --uri with tcp:// or unix://")
    if parts.scheme == "tcp" and parts.hostname in ("0.0.0.0", "::"):
        return f"tcp://127.0.0.1:{parts.port}"
    return config.wyoming.uri
