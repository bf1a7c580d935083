"""Keys and values of prompt prefixes, cached by content with LRU eviction."""

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
    """Values by content key, of at most `max_bytes` in total."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._entries: LRUCache[str, _CachedPrefix[Kept]] = LRUCache(max_bytes, getsizeof=lambda entry: entry.size)

    @property
    def max_bytes(self) -> int:
        return int(self._entries.maxsize)

    @property
    def bytes(self) -> int:
        """Total size of all values."""
        return int(self._entries.currsize)

    def get(self, key: str) -> Kept | None:
        """Return the value of `key` and mark it as the most recently used, or return None."""
        entry = self._entries.get(key)
        return entry.value if entry else None

    def put(self, key: str, value: Kept, size: int) -> None:
        """Cache `value` of `size` bytes, evicting others if needed; skip values larger than the whole cache."""
        self._entries.pop(key, None)
        if size <= self.max_bytes:
            self._entries[key] = _CachedPrefix(value, size)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries
