"""Block tables of the slots, admission, and preemption while blocks are scarce.

A sequence starts once its prompt fits and every running sequence can still have one more block. A running one grows by
a block at a time. Without a free block, keys and values of one sequence are swapped to host memory: of those that make
nothing at the moment first, then of the youngest. They come back unchanged when there is room, the oldest first and
before a new sequence starts. A pool holds at least one sequence of full length, so one always runs to its end;
and nothing is ever computed again or lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .block_pool import BlockPool, HashedBlock


@dataclass(slots=True)
class SwapPlan:
    """What must happen to contents, in this order: blocks whose content leaves, then blocks to which content returns.

    `changed`: the slots whose blocks are others now. `going`: the slots that can make a frame.
    """

    leaving: list[tuple[int, list[int]]] = field(default_factory=list)
    returning: list[tuple[int, list[int]]] = field(default_factory=list)
    changed: set[int] = field(default_factory=set)
    going: list[int] = field(default_factory=list)


class BlockManager:
    """Bookkeeping of one engine's blocks. Pure: the owner of the contents executes each `SwapPlan`."""

    def __init__(self, pool: BlockPool, block_positions: int) -> None:
        self.pool, self.block_positions = pool, block_positions
        self._held: dict[int, list[int]] = {}  # by slot, in order of arrival
        self._swapped_out: dict[int, int] = {}  # by slot, how many blocks its contents fill
        self._going: frozenset[int] = frozenset()
        self._waiting = False  # whether a sequence waits only for blocks

    def blocks(self, slot: int) -> Sequence[int]:
        """The blocks of a slot, in the order of its positions; empty while swapped out."""
        return self._held.get(slot, ())

    def swapped_out(self, slot: int) -> bool:
        """Whether a slot's contents are in host memory."""
        return slot in self._swapped_out

    def count(self, positions: int) -> int:
        """Return the number of blocks for this many positions."""
        return -(-positions // self.block_positions)

    # --- begin and end ------------------------------------------------------------------------------------------

    def admit(self, lengths: Sequence[int]) -> tuple[int, SwapPlan]:
        """Return how many of the waiting prompts, of these lengths, may start now, in order.

        They are counted as if they shared nothing. Idle sequences are preempted for them.
        """
        moves, admitted = SwapPlan(), 0
        if self._waiting:
            return admitted, moves
        needed = sum(slot in self._held for slot in self._going)
        idle = self._idle()
        for length in lengths:
            needed += self.count(length) + 1
            alone = not self._going and not admitted
            if not self._room(needed - alone, idle, moves):
                break
            admitted += 1
        return admitted, moves

    def allocate(self, slot: int, links: Sequence[HashedBlock], positions: int) -> int:
        """Allocate blocks for this many positions of a slot; return how many of the hashed ones are cached already."""
        assert slot not in self._held, slot
        assert slot not in self._swapped_out, slot
        shared = self.pool.lookup(links)
        self._held[slot] = self.pool.allocate(self.count(positions) - len(shared), shared)
        return len(shared)

    def cache(self, slot: int, links: Sequence[HashedBlock]) -> None:
        """The first blocks of a slot contain these links now."""
        self.pool.cache(self._held[slot][: len(links)], links)

    def free(self, slot: int) -> None:
        """Free a slot's blocks, wherever its contents are; does nothing for an empty slot."""
        self._swapped_out.pop(slot, None)
        self.pool.free(self._held.pop(slot, []))

    # --- every step ---------------------------------------------------------------------------------------------

    def advance(self, wishes: Sequence[tuple[int, int]]) -> SwapPlan:
        """Make room for the next position of slots (slot, position), the oldest first; others make nothing now."""
        moves = SwapPlan()
        self._going = frozenset(slot for slot, _ in wishes)
        idle = self._idle()
        self._grow(wishes, idle, moves)
        self._return(wishes, idle, moves)
        return moves

    def _grow(self, wishes: Sequence[tuple[int, int]], idle: list[int], moves: SwapPlan) -> None:
        givers = [slot for slot, _ in wishes if slot in self._held]  # the youngest last
        for slot, position in wishes:
            if slot not in self._held:
                continue
            missing = self.count(position + 1) - len(self._held[slot])
            while missing > 0 and slot in self._held and not self.pool.can_allocate(missing):
                self._preempt(idle.pop() if idle else givers.pop(), moves)
            if slot not in self._held:
                continue
            if missing > 0:
                self._held[slot] += self.pool.allocate(missing)
                moves.changed.add(slot)
            moves.going.append(slot)

    def _return(self, wishes: Sequence[tuple[int, int]], idle: list[int], moves: SwapPlan) -> None:
        """Swap in the oldest sequences, while every running one can still have one more block."""
        self._waiting = False
        for slot, position in wishes:
            if slot not in self._swapped_out:
                continue
            needed = max(self._swapped_out[slot], self.count(position + 1))
            if not self._room(needed + len(moves.going), idle, moves):
                self._waiting = True
                return
            del self._swapped_out[slot]
            self._held[slot] = self.pool.allocate(needed)
            moves.returning.append((slot, self._held[slot]))
            moves.changed.add(slot)
            moves.going.append(slot)

    # --- giving way ---------------------------------------------------------------------------------------------

    def _idle(self) -> list[int]:
        return [slot for slot in self._held if slot not in self._going]

    def _room(self, blocks: int, idle: list[int], moves: SwapPlan) -> bool:
        """Return whether this many blocks are free, after preempting idle sequences."""
        while not self.pool.can_allocate(blocks) and idle:
            self._preempt(idle.pop(), moves)
        return self.pool.can_allocate(blocks)

    def _preempt(self, slot: int, moves: SwapPlan) -> None:
        held = self._held.pop(slot)
        self._swapped_out[slot] = len(held)
        self.pool.free(held)
        moves.leaving.append((slot, held))
        moves.changed.discard(slot)
