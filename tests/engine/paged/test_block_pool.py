"""Blocks: equal prefixes share them, different ones never do, and no sequence of operations leaks one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.paged.block_pool import BlockPool, HashedBlock, VoiceContent, hash_blocks
from engine.prompt.planner import Position, ReferenceFrame, SpeakerVector

PAGE = 4
VOICES = [
    VoiceContent(speaker=bytes([who]) * 16, frames=[bytes([who, frame // 2]) * 64 for frame in range(6)])
    for who in (1, 2)
]
CODECS = st.one_of(st.none(), st.integers(0, 3), st.just(SpeakerVector()), st.integers(0, 5).map(ReferenceFrame))
PROMPTS = st.lists(st.builds(Position, st.integers(0, 2), CODECS), max_size=14)


def embedding(position: Position, voice: VoiceContent) -> tuple[object, ...]:
    """Return the parts of a position's embedding, independently of `hash_blocks`."""
    if isinstance(position.codec, SpeakerVector):
        return position.text, "speaker", voice.speaker
    if isinstance(position.codec, ReferenceFrame):
        return position.text, "frame", voice.frames[position.codec.index]
    return position.text, "mark", position.codec


def equal_blocks(a: list[tuple[object, ...]], b: list[tuple[object, ...]]) -> int:
    """How many full blocks two prompts begin with in common."""
    equal = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return equal // PAGE


def read(pool: BlockPool, links: list[HashedBlock]) -> list[int]:
    """Allocate the blocks of a prompt: share the cached ones and fill the others."""
    shared = pool.lookup(links)
    blocks = pool.allocate(len(links) - len(shared), shared)
    pool.cache(blocks, links)
    return blocks


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(PROMPTS, st.sampled_from(VOICES)), min_size=2, max_size=5), st.booleans())
def test_lookup_shares_exactly_the_full_blocks_of_a_common_prefix(prompts, colliding):
    hashed = {"hashed": lambda content: b"all the same"} if colliding else {}
    pool, seen = BlockPool(100), []
    for positions, voice in prompts:
        blocks = read(pool, hash_blocks(positions, voice, PAGE, **hashed))
        content = [embedding(position, voice) for position in positions]
        assert len(blocks) == len(positions) // PAGE
        for other, other_blocks in seen:
            common = equal_blocks(content, other)
            assert not set(blocks[common:]) & set(other_blocks)
            if not colliding:
                assert blocks[:common] == other_blocks[:common]
        seen.append((content, blocks))


def test_block_hash_depends_on_speaker_language_and_reference():
    base = [Position(1, 7), Position(2, SpeakerVector()), Position(3, ReferenceFrame(0)), Position(4), Position(5, 9)]
    pool = BlockPool(20)
    mine = read(pool, hash_blocks(base, VOICES[0], PAGE))
    assert read(pool, hash_blocks(base, VOICES[0], PAGE)) == mine
    others = [
        (base, VOICES[1]),
        (base, VoiceContent(VOICES[0].speaker, VOICES[1].frames)),
        (base, VoiceContent(VOICES[1].speaker, VOICES[0].frames)),
        ([Position(1, 8), *base[1:]], VOICES[0]),
        ([Position(0, 7), *base[1:]], VOICES[0]),
        ([Position(1), *base[1:]], VOICES[0]),
    ]
    taken = [set(read(pool, hash_blocks(positions, voice, PAGE))) for positions, voice in others]
    assert all(not set(mine) & blocks for blocks in taken)
    assert len(set().union(*taken)) == sum(map(len, taken))


def test_block_hash_is_unambiguous_across_positions():
    """Contents of a block are bytes in a row; where one ends must be certain."""
    frame = VoiceContent(frames=[b"\1", b"\1\1"])
    a = [Position(0, ReferenceFrame(0)), Position(0, ReferenceFrame(1))]
    b = [Position(0, ReferenceFrame(1)), Position(0, ReferenceFrame(0))]
    assert hash_blocks(a, frame, 2) != hash_blocks(b, frame, 2)


def test_eviction_is_lru_and_evicts_prompt_end_before_beginning():
    pool = BlockPool(4)
    old, new = ([HashedBlock(bytes([n, part]), bytes([n, part])) for part in (0, 1)] for n in (1, 2))
    pool.free(read(pool, old))
    pool.free(read(pool, new))
    assert (pool.available, pool.used) == (4, 0)
    (taken,) = pool.allocate(1)
    assert (len(pool.lookup(old)), len(pool.lookup(new))) == (1, 2)
    pool.free(read(pool, old))
    assert (len(pool.lookup(old)), len(pool.lookup(new))) == (2, 1)
    pool.free([taken])


def test_lookup_misses_blocks_whose_prefix_was_evicted():
    """The key of the second block is known, but the block that it continues is another one now."""
    pool, links = BlockPool(5), [HashedBlock(b"a", b"a"), HashedBlock(b"b", b"b")]
    blocks = read(pool, links)
    collision = [HashedBlock(b"a", b"something else")]
    other = read(pool, collision)
    assert (pool.lookup(links), pool.lookup(collision)) == ([], other)
    again = read(pool, links)
    assert not set(again) & {*blocks, *other}
    assert (pool.lookup(links), pool.lookup(collision)) == (again, [])
    for each in (blocks, other, again):
        pool.free(each)
    assert (pool.available, pool.used) == (5, 0)


def test_allocate_more_than_free_raises():
    pool, links = BlockPool(2), [HashedBlock(b"a", b"a")]
    pool.free(read(pool, links))
    assert pool.can_allocate(2)
    assert not pool.can_allocate(2, pool.lookup(links))
    assert pool.can_allocate(1, pool.lookup(links))
    with pytest.raises(AssertionError):
        pool.allocate(3)
    assert (pool.available, pool.used) == (2, 0)


class AnyHistory(RuleBasedStateMachine):
    """Prompts come, grow and go in any order, in a pool that is often full."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(9)
        self.held: list[list[int]] = []

    @rule(prompt=st.lists(st.integers(0, 1), max_size=5), more=st.integers(0, 2))
    def begin(self, prompt: list[int], more: int) -> None:
        links = hash_blocks([Position(text) for text in prompt for _ in range(PAGE)], VOICES[0], PAGE)
        shared = self.pool.lookup(links)
        new = len(links) - len(shared) + more
        if not self.pool.can_allocate(new, shared):
            return
        blocks = self.pool.allocate(new, shared)
        self.pool.cache(blocks[: len(links)], links)
        assert self.pool.lookup(links) != [] or not links
        self.held.append(blocks)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        if self.pool.can_allocate(1):
            data.draw(st.sampled_from(self.held)).extend(self.pool.allocate(1))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.pool.free(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def every_block_is_free_or_held(self) -> None:
        held = [block for blocks in self.held for block in blocks]
        assert self.pool.available + self.pool.used == self.pool.blocks
        assert self.pool.used == len(set(held))
        assert all(self.pool.ref_count(block) == held.count(block) for block in range(1, 10))
        assert 0 not in held

    def teardown(self) -> None:
        for blocks in self.held:
            self.pool.free(blocks)
        assert (self.pool.available, self.pool.used) == (9, 0)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_block_pool_does_not_import_torch() -> None:
    code = "import sys, engine.paged.block_pool, engine.paged.block_manager; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
