"""Blocks of keys and values: who holds which, and which of them already hold what a new prompt begins with.

Only full blocks of prompts are shared, and full blocks are never written again, so sharing needs no copy-on-write.
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
"""The block that is never allocated: padding is written there, and tables point to it where they are empty."""

Hash = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class HashedBlock:
    """A full block of a prompt: its content, and a hash of that and of everything before it."""

    key: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class VoiceContent:
    """The content behind a prompt's special tokens: the x-vector's digest, and the codes of each reference frame."""

    speaker: bytes = b""
    frames: Sequence[bytes] = ()


def hash_blocks(
    positions: Sequence[Position], voice: VoiceContent, block_positions: int, hashed: Hash = xxhash.xxh3_128_digest
) -> list[HashedBlock]:
    """The full blocks of a prompt, by all that its embeddings are made of; the last positions may not fill one."""
    links: list[HashedBlock] = []
    for start in range(0, len(positions) - block_positions + 1, block_positions):
        content = b"".join(_content(position, voice) for position in positions[start : start + block_positions])
        before = links[-1].key if links else b""
        links.append(HashedBlock(hashed(before + content), content))
    return links


def _content(position: Position, voice: VoiceContent) -> bytes:
    """One position as bytes that no other position has, alone or in a row."""
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
    """What a block holds, behind which other one; `serial` is never used again, unlike the number of the block."""

    serial: int
    before: int
    link: HashedBlock


class BlockPool:
    """Blocks 1 to `blocks`, each with a reference count. A free one may keep its content until it is allocated again.

    A hash only finds a block: before it is shared, contents are compared, so that no collision can mix up two voices.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._ref_counts = [0] * (blocks + 1)
        self._empty = list(range(blocks, 0, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached and free, least recently used first
        self._cached: dict[int, _CachedBlock] = {}
        self._by_key: dict[bytes, int] = {}
        self._serials = count(1)

    @property
    def available(self) -> int:
        """How many blocks can be allocated."""
        return len(self._empty) + len(self._idle)

    @property
    def used(self) -> int:
        """How many blocks are in use."""
        return sum(count > 0 for count in self._ref_counts)

    def ref_count(self, block: int) -> int:
        """Return how many slots hold a block."""
        return self._ref_counts[block]

    def lookup(self, links: Sequence[HashedBlock]) -> list[int]:
        """The blocks that hold the first of these links, as far as they are known."""
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
        """Return whether this many new blocks are available beside those `shared`, which `lookup` returned."""
        return new <= self.available - sum(block in self._idle for block in shared)

    def allocate(self, new: int, shared: Sequence[int] = ()) -> list[int]:
        """Hold the shared blocks and as many new ones: all of them, in this order."""
        assert self.can_allocate(new, shared), (new, len(shared), self.available)
        for block in shared:
            self._ref_counts[block] += 1
            self._idle.pop(block, None)
        fresh = [self._fresh() for _ in range(new)]
        for block in fresh:
            self._ref_counts[block] = 1
        return [*shared, *fresh]

    def cache(self, blocks: Sequence[int], links: Sequence[HashedBlock]) -> None:
        """Register the contents of held blocks: others may share them until the blocks are reused."""
        before = 0
        for block, link in zip(blocks, links, strict=True):
            if block not in self._cached:
                twin = self._twin(link, before)
                if twin is not None:  # the same prompt has been read twice at once
                    before = twin.serial
                    continue
                self._cached[block] = _CachedBlock(next(self._serials), before, link)
                self._by_key[link.key] = block
            before = self._cached[block].serial

    def free(self, blocks: Sequence[int]) -> None:
        """Let go of blocks. Of a prompt, the last are forgotten first: without the first, they are of no use."""
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
            self._forget(next(iter(self._idle)))
        return self._empty.pop()

    def _twin(self, link: HashedBlock, before: int) -> _CachedBlock | None:
        """Who is known for the same content already. One that has only the hash in common is known no longer."""
        block = self._by_key.get(link.key)
        if block is None:
            return None
        kept = self._cached[block]
        if kept.link == link and kept.before == before:
            return kept
        self._forget(block)
        return None

    def _forget(self, block: int) -> None:
        del self._by_key[self._cached.pop(block).link.key]
        if block in self._idle:
            del self._idle[block]
            self._empty.append(block)
