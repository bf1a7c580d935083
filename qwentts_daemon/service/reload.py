"""Reads the configuration again when it is asked to (SIGHUP), and never lets a broken one into force."""

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
    """Happens whenever `asked` is set. What is being spoken is not touched: a reply keeps what it began with."""

    def __init__(
        self, live: LiveConfig, pool: WorkerPool, check: Callable[[Config], object], notifier: Notifier
    ) -> None:
        """`check` raises ConfigError for a configuration that does not fit what runs."""
        self.asked = asyncio.Event()
        self._live = live
        self._pool = pool
        self._check = check
        self._notifier = notifier

    async def run(self) -> None:
        """Reload whenever it is asked for, until cancelled."""
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
            log.error("the configuration stays as it was: %s", error)
            return
        self._live.current = change.config
        if "wyoming.max_connections" in change.taken:
            allow_descriptors(change.config.wyoming.max_connections)
        logs.set_level(change.config.log.level)
        self._pool.set_log_level(change.config.log.level)
        _tell(change)


def _tell(change: ConfigChange) -> None:
    log.info("configuration read again: %s", ", ".join(change.taken) or "nothing that can change while it runs")
    if change.needs_restart:
        log.warning("only a restart changes %s", ", ".join(change.needs_restart))
