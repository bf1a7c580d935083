"""Reference-counted blocks of keys and values, and the cache that shares the blocks of common prompt prefixes.

Only full blocks of prompts are shared, and full blocks are never written to, so sharing needs no copy-on-write.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import xxhash

from ..prompt.planner import Codec, Position, ReferenceFrame, SpeakerVector

NULL_BLOCK = 0
"""Never allocated: padding is written to this block, and unused table entries point to it."""

Hash = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class HashedBlock:
    """A full block of a prompt: its content, and a hash of that content and of all preceding blocks."""

    key: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class VoiceContent:
    """Content behind a prompt's placeholders: the digest of the x-vector, and the codes of each reference frame."""

    speaker: bytes = b""
    frames: Sequence[bytes] = ()


def hash_blocks(
    positions: Sequence[Position], voice: VoiceContent, block_positions: int, hashed: Hash = xxhash.xxh3_128_digest
) -> list[HashedBlock]:
    """Hash the full blocks of a prompt over all inputs of their embeddings; ignore a partial last block."""
    links: list[HashedBlock] = []
    for start in range(0, len(positions) - block_positions + 1, block_positions):
        content = b"".join(_content(position, voice) for position in positions[start : start + block_positions])
        before = links[-1].key if links else b""
        links.append(HashedBlock(hashed(before + content), content))
    return links


def _content(position: Position, voice: VoiceContent) -> bytes:
    """Encode one position as bytes, uniquely and self-delimiting."""
    kind, value = _codec_content(position.codec, voice)
    return struct.pack("<qBI", position.text, kind, len(value)) + value


def _codec_content(codec: Codec | None, voice: VoiceContent) -> tuple[int, bytes]:
    if codec is None:
        return 0, b""
    if isinstance(codec, SpeakerVector):
        assert voice.speaker, "a speaker position without an x-vector"
        return 2, voice.speaker
    if isinstance(codec, ReferenceFrame):
        return 3, voice.frames[codec.index]
    return 1, struct.pack("<q", codec)


@dataclass(frozen=True, slots=True)
class _CachedBlock:
    """Content and predecessor of a cached block; `serial` is never reused, unlike the block number."""

    serial: int
    before: int
    link: HashedBlock


class BlockPool:
    """Blocks 1 to `blocks`, each free or in use by one or more slots. Unused blocks keep their content until
    reallocated.

    A hash only locates a block: contents are compared before it is shared, so a collision cannot mix up two voices.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._ref_counts = [0] * (blocks + 1)
        self._empty = list(range(blocks, 0, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached and unused, least recently used first
        self._cached: dict[int, _CachedBlock] = {}
        self._by_key: dict[bytes, int] = {}
        self._serials = count(1)

    @property
    def available(self) -> int:
        """Number of blocks that can be allocated."""
        return len(self._empty) + len(self._idle)

    @property
    def used(self) -> int:
        """Number of blocks in use."""
        return sum(count > 0 for count in self._ref_counts)

    def ref_count(self, block: int) -> int:
        """Return the number of slots that use a block."""
        return self._ref_counts[block]

    def lookup(self, links: Sequence[HashedBlock]) -> list[int]:
        """Return the blocks that contain the longest cached prefix of `links`."""
        found: list[int] = []
        before = 0
        for link in links:
            block = self._by_key.get(link.key, NULL_BLOCK)
            kept = self._cached.get(block)
            if kept is None or kept.before != before or kept.link != link:
                break
            found.append(block)
            before = kept.serial
        return found

    def can_allocate(self, new: int, shared: Sequence[int] = ()) -> bool:
        """Return True if `new` blocks can be allocated in addition to `shared`, the result of `lookup`."""
        return new <= self.available - sum(block in self._idle for block in shared)

    def allocate(self, new: int, shared: Sequence[int] = ()) -> list[int]:
        """Take a reference to each shared block and allocate `new` blocks; return all of them in this order."""
        assert self.can_allocate(new, shared), (new, len(shared), self.available)
        for block in shared:
            self._ref_counts[block] += 1
            self._idle.pop(block, None)
        fresh = [self._fresh() for _ in range(new)]
        for block in fresh:
            self._ref_counts[block] = 1
        return [*shared, *fresh]

    def cache(self, blocks: Sequence[int], links: Sequence[HashedBlock]) -> None:
        """Record that these allocated blocks contain `links`: they can be shared until they are reallocated."""
        before = 0
        for block, link in zip(blocks, links, strict=True):
            if block not in self._cached:
                twin = self._cached_twin(link, before)
                if twin is not None:  # the same prompt was prefilled twice concurrently
                    before = twin.serial
                    continue
                self._cached[block] = _CachedBlock(next(self._serials), before, link)
                self._by_key[link.key] = block
            before = self._cached[block].serial

    def free(self, blocks: Sequence[int]) -> None:
        """Release blocks. The last blocks of a prompt are evicted first: without the first ones they are useless."""
        for block in reversed(blocks):
            assert self._ref_counts[block] > 0, block
            self._ref_counts[block] -= 1
            if self._ref_counts[block]:
                continue
            if block in self._cached:
                self._idle[block] = None
            else:
                self._empty.append(block)

    def _fresh(self) -> int:
        if not self._empty:
            self._evict(next(iter(self._idle)))
        return self._empty.pop()

    def _cached_twin(self, link: HashedBlock, before: int) -> _CachedBlock | None:
        """Return the cached block with the same content; evict a block that only has the same hash."""
        block = self._by_key.get(link.key)
        if block is None:
            return None
        kept = self._cached[block]
        if kept.link == link and kept.before == before:
            return kept
        self._evict(block)
        return None

    def _evict(self, block: int) -> None:
        del self._by_key[self._cached.pop(block).link.key]
        if block in self._idle:
            del self._idle[block]
            self._empty.append(block)
