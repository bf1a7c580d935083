"""Block allocation per slot: admission, growth and preemption.

A sequence is admitted when there are blocks for its prompt and one more for every running sequence. A running sequence
grows one block at a time. When no blocks are left, a sequence is preempted by swapping its keys and values to host
memory: idle sequences first, then the youngest. Swapped sequences return unchanged when there is room, the oldest first
and before any new sequence is admitted. The pool has room for at least one sequence of full length, so some sequence
always advances and finishes, and nothing is ever recomputed or lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .block_pool import BlockPool, HashedBlock


@dataclass(slots=True)
class SwapPlan:
    """Block contents to move: first the blocks to swap out, then the blocks to swap in.

    `changed`: slots whose block lists have changed. `schedulable`: slots that can generate a frame.
    """

    swap_out: list[tuple[int, list[int]]] = field(default_factory=list)
    swap_in: list[tuple[int, list[int]]] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)
    schedulable: list[int] = field(default_factory=list)


class BlockManager:
    """Block bookkeeping of one engine. Does not access any contents: the caller executes each `SwapPlan`."""

    def __init__(self, pool: BlockPool, block_positions: int) -> None:
        self.pool, self.block_positions = pool, block_positions
        self._blocks: dict[int, list[int]] = {}  # by slot, in order of allocation
        self._swapped_out: dict[int, int] = {}  # by slot, number of blocks needed to swap in
        self._running: frozenset[int] = frozenset()
        self._waiting = False  # True if a swapped sequence is waiting for blocks

    def blocks(self, slot: int) -> Sequence[int]:
        """Return the blocks of a slot in position order; empty while it is swapped out."""
        return self._blocks.get(slot, ())

    def swapped_out(self, slot: int) -> bool:
        """Return True if a slot's contents are in host memory."""
        return slot in self._swapped_out

    def count(self, positions: int) -> int:
        """Return the number of blocks needed for `positions`."""
        return -(-positions // self.block_positions)

    # --- admission and release ----------------------------------------------------------------------------------

    def admit(self, lengths: Sequence[int]) -> tuple[int, SwapPlan]:
        """Return how many of the waiting prompts, given their lengths in positions, can start now, in queue order.

        Prompts are counted as if they shared no blocks. Idle sequences are preempted for them.
        """
        moves, admitted = SwapPlan(), 0
        if self._waiting:
            return admitted, moves
        needed = sum(slot in self._blocks for slot in self._running)
        idle = self._idle()
        for length in lengths:
            needed += self.count(length) + 1
            alone = not self._running and not admitted
            if not self._make_room(needed - alone, idle, moves):
                break
            admitted += 1
        return admitted, moves

    def allocate(self, slot: int, links: Sequence[HashedBlock], positions: int) -> int:
        """Allocate a slot's blocks for `positions`; return how many of `links` are already cached in them."""
        assert slot not in self._blocks, slot
        assert slot not in self._swapped_out, slot
        shared = self.pool.lookup(links)
        self._blocks[slot] = self.pool.allocate(self.count(positions) - len(shared), shared)
        return len(shared)

    def cache(self, slot: int, links: Sequence[HashedBlock]) -> None:
        """Record that the first blocks of a slot now contain `links`."""
        self.pool.cache(self._blocks[slot][: len(links)], links)

    def free(self, slot: int) -> None:
        """Free a slot's blocks, or its swapped state; do nothing if it has neither."""
        self._swapped_out.pop(slot, None)
        self.pool.free(self._blocks.pop(slot, []))

    # --- every step ---------------------------------------------------------------------------------------------

    def advance(self, running: Sequence[tuple[int, int]]) -> SwapPlan:
        """Make room for the next positions of (slot, position) pairs, oldest first; all other slots count as idle."""
        moves = SwapPlan()
        self._running = frozenset(slot for slot, _ in running)
        idle = self._idle()
        self._grow(running, idle, moves)
        self._swap_in(running, idle, moves)
        return moves

    def _grow(self, running: Sequence[tuple[int, int]], idle: list[int], moves: SwapPlan) -> None:
        candidates = [slot for slot, _ in running if slot in self._blocks]  # youngest last
        for slot, position in running:
            if slot not in self._blocks:
                continue
            missing = self.count(position + 1) - len(self._blocks[slot])
            while missing > 0 and slot in self._blocks and not self.pool.can_allocate(missing):
                self._preempt(idle.pop() if idle else candidates.pop(), moves)
            if slot not in self._blocks:
                continue
            if missing > 0:
                self._blocks[slot] += self.pool.allocate(missing)
                moves.changed.add(slot)
            moves.schedulable.append(slot)

    def _swap_in(self, running: Sequence[tuple[int, int]], idle: list[int], moves: SwapPlan) -> None:
        """Swap in the oldest sequences, as long as every running sequence can still have one more block."""
        self._waiting = False
        for slot, position in running:
            if slot not in self._swapped_out:
                continue
            needed = max(self._swapped_out[slot], self.count(position + 1))
            if not self._make_room(needed + len(moves.schedulable), idle, moves):
                self._waiting = True
                return
            del self._swapped_out[slot]
            self._blocks[slot] = self.pool.allocate(needed)
            moves.swap_in.append((slot, self._blocks[slot]))
            moves.changed.add(slot)
            moves.schedulable.append(slot)

    # --- preemption ---------------------------------------------------------------------------------------------

    def _idle(self) -> list[int]:
        return [slot for slot in self._blocks if slot not in self._running]

    def _make_room(self, blocks: int, idle: list[int], moves: SwapPlan) -> bool:
        """Return True if `blocks` blocks are available, preempting idle sequences if needed."""
        while not self.pool.can_allocate(blocks) and idle:
            self._preempt(idle.pop(), moves)
        return self.pool.can_allocate(blocks)

    def _preempt(self, slot: int, moves: SwapPlan) -> None:
        blocks = self._blocks.pop(slot)
        self._swapped_out[slot] = len(blocks)
        self.pool.free(blocks)
        moves.swap_out.append((slot, blocks))
        moves.changed.discard(slot)
