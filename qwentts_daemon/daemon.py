"""Composition root: creates and connects all components, and stops them in the right order."""

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
from .service import early_signals
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
    voices = VoiceRegistry(live, pool)
    synthesizer = Synthesizer(pool, live)
    reload = Reload(live, pool, voices.check, notifier)
    reporter = WatchdogReporter(live, pool, notifier, changed, watchdog_s)
    allow_descriptors(live.current.wyoming.max_connections)
    _on_signals(stopping, reload.asked)
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:  # exited in reverse order
        stack.callback(tasks.create_task(reporter.run(stopping.is_set), name="watchdog").cancel)
        server = WyomingServer(Service(live, synthesizer, voices.current, ClientLimiter(live)), tasks)
        workers = PoolTask(pool)
        stack.push_async_callback(workers.stop)
        recordings = await stack.enter_async_context(recording_store(live.current, lambda: pool.ready))
        announcer = await stack.enter_async_context(_announcing(live.current, synthesizer, voices, recordings, reload))
        stack.push_async_callback(lambda: _drain(server, announcer, live.current.daemon.shutdown_timeout))
        listener = await stack.enter_async_context(listening(live.current.wyoming.uri, server, stopping, given))
        workers.start()
        notifier.ready()
        stack.callback(tasks.create_task(reload.run(), name="reload").cancel)
        if listener.address and live.current.wyoming.zeroconf:
            await stack.enter_async_context(advertised(live.current.wyoming.name, *listener.address))
        await workers.run_until(stopping)
        log.info("stopping")
        notifier.stopping(live.current.daemon.shutdown_timeout + STOP_MARGIN_S)
        changed.set()
        listener.close()
        synthesizer.close()


@contextlib.asynccontextmanager
async def _announcing(
    config: Config,
    synthesizer: Synthesizer,
    voices: VoiceRegistry,
    recordings: RecordingStore | None,
    reload: Reload,
) -> AsyncIterator[Announcer | None]:
    """Serve announcements by MQTT if a broker is configured; otherwise do not import the MQTT packages."""
    if not config.mqtt.host:
        if config.announce.targets:
            log.warning("announce.targets: announcements need a broker; set mqtt.host")
        yield None
        return
    from .mqtt.commands import DaemonControls
    from .mqtt.service import Dependencies, announcing

    controls = DaemonControls(reload.asked.set, synthesizer.pool.primary.unload)
    async with announcing(config, Dependencies(synthesizer, voices.current, recordings, controls)) as announcer:
        yield announcer


async def _drain(server: WyomingServer, announcer: Announcer | None, timeout_s: float) -> None:
    """Let running replies and announcements finish, for up to `timeout_s`."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.drain(timeout_s), name="drain wyoming")
        if announcer:
            tasks.create_task(announcer.drain(timeout_s), name="drain announcements")


@contextlib.asynccontextmanager
async def recording_store(config: Config, is_ready: Callable[[], bool]) -> AsyncIterator[RecordingStore | None]:
    """Run the HTTP server with its recordings, if enabled or needed by a target. Raises StartError."""
    if not (config.http.enabled or any(isinstance(target, UrlTarget) for target in config.announce.targets.values())):
        yield None
        return
    from .http.server import serving  # loads aiohttp

    async with serving(config.http, cache_dir(config, os.environ), is_ready) as recordings:
        yield recordings


def make_pool(live: LiveConfig, changed: Callable[[], None] = lambda: None) -> WorkerPool:
    """Create the configured workers without starting them. `changed` is called when jobs begin, wait or end."""
    engines = choose_engines(live.current, os.environ)
    groups = []
    for workers in engines:
        queue = JobQueue(live, has_fallback=workers is not engines[-1], changed=changed)
        idle = IdleManager(live.current.engine.keep_alive_s if workers is engines[0] else None)
        clients = [WorkerClient(each, live, queue, idle) for each in workers]
        groups.append(WorkerGroup(clients, queue, idle))
    return WorkerPool(live, groups[0], groups[1] if len(groups) > 1 else None)


class PoolTask:
    """The task that runs the pool: started once the sockets are open, stopped after the last reply."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the workers."""
        self._task = asyncio.create_task(self._pool.run(), name="workers")

    async def run_until(self, stopping: asyncio.Event) -> None:
        """Wait until `stopping` is set. Raises the exception that ends the pool before that."""
        assert self._task, "not started"
        waiting = asyncio.create_task(stopping.wait(), name="stopping")
        try:
            await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Stop every worker process."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])


def _on_signals(stopping: asyncio.Event, reload: asyncio.Event) -> None:
    """Stop in order at the first signal, at once at the second (workers die with their parent); reload at SIGHUP."""
    terminal = sys.stdin is not None and sys.stdin.isatty()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    def hang_up() -> None:
        closed = terminal and not os.isatty(sys.stdin.fileno())  # a terminal that closes sends SIGHUP too
        (stopping if closed else reload).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    if early_signals.hung_up():
        hang_up()


def program_uri(config: Config) -> str:
    """Return the URI for this daemon's own commands: nothing can connect to a wildcard address. Raises ConfigError."""
    parts = urlsplit(config.wyoming.uri)
    if parts.scheme == "stdio":
        raise ConfigError("wyoming.uri: clients cannot connect to stdio://; use --uri with tcp:// or unix://")
    if parts.scheme == "tcp" and parts.hostname in ("0.0.0.0", "::"):
        return f"tcp://127.0.0.1:{parts.port}"
    return config.wyoming.uri
