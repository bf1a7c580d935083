"""Keys and values of prompt beginnings, cached by content and evicted least recently used first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import LRUCache

Kept = TypeVar("Kept")

MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _CachedPrefix(Generic[Kept]):
    value: Kept
    size: int


class PrefixCache(Generic[Kept]):
    """Values by content key, at most `max_bytes` together."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._entries: LRUCache[str, _CachedPrefix[Kept]] = LRUCache(max_bytes, getsizeof=lambda entry: entry.size)

    @property
    def max_bytes(self) -> int:
        return int(self._entries.maxsize)

    @property
    def bytes(self) -> int:
        """The size of all values together."""
        return int(self._entries.currsize)

    def get(self, key: str) -> Kept | None:
        """Return the value of `key`, now the most recently used one, or None."""
        entry = self._entries.get(key)
        return entry.value if entry else None

    def put(self, key: str, value: Kept, size: int) -> None:
        """Cache `value` of `size` bytes, evicting others for it; a value larger than the cache is not cached."""
        self._entries.pop(key, None)
        if size <= self.max_bytes:
            self._entries[key] = _CachedPrefix(value, size)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries
