"""The voice catalog in force, rebuilt when the voices of the engine or their configuration change."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..config.live import LiveConfig
from ..config.schema import Config, Voices
from ..errors import ConfigError
from ..voices.catalog import EngineVoice, VoiceCatalog
from ..workers.pool import WorkerPool

log = logging.getLogger(__name__)


class VoiceRegistry:
    """Builds and caches the catalog of the pool's voices.

    While an engine has lost its last voice, the previous ones stay listed: Home Assistant drops a server without any.
    """

    def __init__(self, live: LiveConfig, pool: WorkerPool) -> None:
        """Build the first catalog. Raises ConfigError if the configured names do not fit the voices."""
        self._live = live
        self._pool = pool
        self._source = (pool.voices, live.current.voices)
        self._catalog = self._build()

    def current(self) -> VoiceCatalog:
        """Return the catalog in force."""
        voices = self._pool.voices or self._source[0]
        if self._source != (voices, self._live.current.voices):
            self._source = (voices, self._live.current.voices)
            self._catalog = self._rebuild()
        return self._catalog

    def check(self, config: Config) -> None:
        """Raise ConfigError if the names in `config` do not fit the present voices."""
        self._catalog_of(self._pool.voices or self._source[0], config.voices)

    def _build(self) -> VoiceCatalog:
        catalog = self._catalog_of(*self._source)
        for problem in catalog.awaited:
            log.warning("%s; it may still come", problem)
        return catalog

    def _rebuild(self) -> VoiceCatalog:
        try:
            return self._build()
        except ConfigError as error:
            log.error("the engine's voices no longer fit the configuration, which is left aside: %s", error)
            return self._catalog_of(self._source[0], Voices())

    def _catalog_of(self, voices: Sequence[EngineVoice], config: Voices) -> VoiceCatalog:
        return VoiceCatalog(voices, config, self._pool.primary.takes_new_voices, self._pool.stands_in)
