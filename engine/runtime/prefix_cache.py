"""What prompts have in common, kept by content: the least recently used makes room for the new."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

Kept = TypeVar("Kept")

MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _CachedPrefix(Generic[Kept]):
    value: Kept
    size: int


class PrefixCache(Generic[Kept]):
    """Values by content key, at most `max_bytes` together. What a value is and where it lies is its owner's affair."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[str, _CachedPrefix[Kept]] = OrderedDict()

    def get(self, key: str) -> Kept | None:
        """The value of `key`, which counts as a use."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.value

    def put(self, key: str, value: Kept, size: int) -> None:
        """Keep `size` bytes under `key`; what is larger than the whole store is not kept."""
        if old := self._entries.pop(key, None):
            self.bytes -= old.size
        if size > self.max_bytes:
            return
        while self.bytes + size > self.max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1].size
        self._entries[key] = _CachedPrefix(value, size)
        self.bytes += size

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries
