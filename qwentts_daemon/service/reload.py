"""Reloads the configuration on request (SIGHUP); an invalid one is never applied."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from .. import logs
from ..config.live import ConfigChange, LiveConfig, compare
from ..config.schema import Config
from ..errors import ConfigError
from ..workers.pool import WorkerPool
from ..wyoming.rate_limit import allow_descriptors
from .sd_notify import Notifier

log = logging.getLogger(__name__)


class Reload:
    """Reloads whenever `asked` is set. A running reply keeps the configuration that it began with."""

    def __init__(
        self, live: LiveConfig, pool: WorkerPool, check: Callable[[Config], object], notifier: Notifier
    ) -> None:
        """`check` raises ConfigError for a configuration that the running engines cannot serve."""
        self.asked = asyncio.Event()
        self._live = live
        self._pool = pool
        self._check = check
        self._notifier = notifier

    async def run(self) -> None:
        """Serve reload requests until cancelled."""
        while True:
            await self.asked.wait()
            self.asked.clear()
            self._notifier.reloading()
            await self._reload()
            self._notifier.ready()

    async def _reload(self) -> None:
        try:
            change = compare(self._live.current, await asyncio.to_thread(self._live.read))
            self._check(change.config)
        except ConfigError as error:
            log.error("configuration not reloaded, the previous one stays in force: %s", error)
            return
        self._live.current = change.config
        if "wyoming.max_connections" in change.taken:
            allow_descriptors(change.config.wyoming.max_connections)
        logs.set_level(change.config.log.level)
        self._pool.set_log_level(change.config.log.level)
        _log_change(change)


def _log_change(change: ConfigChange) -> None:
    log.info("configuration reloaded: %s", ", ".join(change.taken) or "no changes that apply without a restart")
    if change.needs_restart:
        log.warning("restart the daemon to apply %s", ", ".join(change.needs_restart))
