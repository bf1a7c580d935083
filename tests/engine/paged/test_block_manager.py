"""Which sequences hold blocks and which are preempted: the oldest always runs, and no contents are lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.paged.block_manager import BlockManager
from engine.paged.block_pool import BlockPool, VoiceContent, hash_blocks
from engine.prompt.planner import Position

PAGE = 4
BLOCKS = 8
ROOM = PAGE * BLOCKS  # a sequence of full length just fits


def links(text: int, positions: int):
    return hash_blocks([Position(text)] * (positions - 1), VoiceContent(), PAGE)


def paging(blocks: int = BLOCKS) -> BlockManager:
    return BlockManager(BlockPool(blocks), PAGE)


def test_admit_defers_prompt_when_running_sequences_need_the_blocks():
    books = paging()
    books.advance([])
    assert books.admit([12, 12, 4])[0] == 2  # 3 + 3 blocks and one more for each are all there are
    books.allocate(0, links(0, 12), 12)
    books.allocate(1, links(1, 12), 12)
    books.advance([(0, 12), (1, 12)])
    assert books.pool.available == 0
    assert books.admit([4])[0] == 0
    books.free(1)
    books.advance([(0, 13)])
    assert books.admit([4, 4, 4])[0] == 1


def test_advance_preempts_youngest_and_restores_it_before_new_prompts():
    books = paging()
    books.allocate(0, [], 16)
    books.allocate(1, [], 16)
    moves = books.advance([(0, 16), (1, 12)])
    assert moves.schedulable == [0]
    ((slot, left),) = moves.swap_out
    assert (slot, len(left), books.swapped_out(1)) == (1, 4, True)
    assert books.admit([4])[0] == 0
    assert books.advance([(0, 17), (1, 12)]).schedulable == [0]
    books.free(0)
    moves = books.advance([(1, 12)])
    assert moves.schedulable == [1]
    ((slot, back),) = moves.swap_in
    assert (slot, len(back), books.swapped_out(1)) == (1, 4, False)


def test_advance_preempts_idle_before_youngest():
    books = paging()
    for slot in range(3):
        books.allocate(slot, [], 8)
    moves = books.advance([(1, 8), (2, 8)])
    assert (moves.swap_out, moves.schedulable) == ([], [1, 2])
    moves = books.advance([(1, 12), (2, 12)])
    assert [slot for slot, _ in moves.swap_out] == [0]
    assert moves.schedulable == [1, 2]


def test_admit_preempts_idle_sequence_for_new_prompt():
    books = paging()
    books.allocate(0, [], 30)
    books.advance([])
    admitted, moves = books.admit([20])
    assert (admitted, [slot for slot, _ in moves.swap_out]) == (1, [0])


def test_single_sequence_can_use_every_block():
    books = paging()
    books.advance([])
    assert books.admit([ROOM])[0] == 1
    books.allocate(0, [], 5)
    for position in range(5, ROOM):
        assert books.advance([(0, position)]).schedulable == [0]
    assert books.pool.available == 0


class AnyHistory(RuleBasedStateMachine):
    """Sequences begin, advance, pause and end. The model of contents is a letter for each block of each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.books = paging()
        self.contents: dict[int, str] = {}  # of each block of the pool
        self.stowed: dict[int, list[str]] = {}
        self.positions: dict[int, int] = {}  # of each slot, the next one; in the order of age
        self.paused: set[int] = set()
        self.slots = list(range(6))

    def carry_out(self, moves) -> None:
        for slot, blocks in moves.swap_out:
            self.stowed[slot] = [self.contents[block] for block in blocks]
        for slot, blocks in moves.swap_in:
            stowed = self.stowed.pop(slot)
            self.contents |= dict(zip(blocks, stowed, strict=False))

    @rule(
        lengths=st.lists(st.integers(1, ROOM), min_size=1, max_size=3),
        text=st.integers(0, 2),
        pause=st.sets(st.integers(0, 5)),
    )
    def step(self, lengths: list[int], text: int, pause: set[int]) -> None:
        """As the engine does it: those who run first, then newcomers, then a frame for all of them."""
        self.paused = pause
        going = [(slot, at) for slot, at in self.positions.items() if slot not in pause and at < ROOM]
        oldest = next((slot for slot, _ in going if not self.books.swapped_out(slot)), None)
        moves = self.books.advance(going)
        self.carry_out(moves)
        assert bool(moves.schedulable) == bool(going)
        assert oldest is None or oldest in moves.schedulable
        lengths = lengths[: len(self.slots)]
        admitted, more = self.books.admit(lengths)
        self.carry_out(more)
        assert admitted or going or not lengths
        for length in lengths[:admitted]:
            self.begin(length, text)
        for slot in moves.schedulable:
            block = self.books.blocks(slot)[self.positions[slot] // PAGE]
            self.contents[block] = f"{slot}:{self.positions[slot] // PAGE}"
            self.positions[slot] += 1

    def begin(self, length: int, text: int) -> None:
        slot = self.slots.pop(0)
        chain = links(text, length)
        self.books.allocate(slot, chain, length)
        for n, block in enumerate(self.books.blocks(slot)):
            self.contents[block] = f"text {text}:{n}" if n < len(chain) else f"{slot}:{n}"
        self.books.cache(slot, chain)
        self.positions[slot] = length

    @precondition(lambda self: self.positions)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(list(self.positions)))
        self.books.free(slot)
        del self.positions[slot]
        self.stowed.pop(slot, None)
        self.slots.append(slot)

    @invariant()
    def nothing_is_lost(self) -> None:
        pool = self.books.pool
        assert pool.available + pool.used == BLOCKS
        held = {block for slot in self.positions for block in self.books.blocks(slot)}
        assert pool.used == len(held)
        for slot, position in self.positions.items():
            assert self.books.swapped_out(slot) == (slot in self.stowed)
            found = self.stowed.get(slot) or [self.contents[block] for block in self.books.blocks(slot)]
            assert len(found) >= -(-position // PAGE)
            for n, content in enumerate(found[: -(-position // PAGE)]):
                assert content in (f"{slot}:{n}", *(f"text {text}:{n}" for text in range(3)))

    def teardown(self) -> None:
        for slot in list(self.positions):
            self.books.free(slot)
        assert (self.books.pool.available, self.books.pool.used) == (BLOCKS, 0)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
