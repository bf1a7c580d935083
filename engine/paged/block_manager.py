"""Which blocks every slot holds, who may begin, and who gives way while there are too few.

The rule: a sequence begins when its prompt finds blocks and everybody who runs can still have one more. One that runs
grows by a block at a time. When there is none, somebody's keys and values move to host memory: of those that make
nothing at the moment first, then of the youngest. They come back unchanged when there is room, the oldest first and
before anybody new begins. A pool holds at least one sequence of full length, so somebody always goes on and ends;
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
    """The books of one engine's blocks. Pure: whoever keeps the contents carries `SwapPlan` out."""

    def __init__(self, pool: BlockPool, block_positions: int) -> None:
        self.pool, self.block_positions = pool, block_positions
        self._held: dict[int, list[int]] = {}  # by slot, in the order in which they came
        self._swapped_out: dict[int, int] = {}  # by slot, how many blocks its contents fill
        self._going: frozenset[int] = frozenset()
        self._waiting = False  # whether somebody would go on but for its blocks

    def blocks(self, slot: int) -> Sequence[int]:
        """The blocks of a slot, in the order of its positions; none while they are away."""
        return self._held.get(slot, ())

    def swapped_out(self, slot: int) -> bool:
        """Whether a slot's contents are in host memory."""
        return slot in self._swapped_out

    def count(self, positions: int) -> int:
        """How many blocks so many positions fill."""
        return -(-positions // self.block_positions)

    # --- begin and end ------------------------------------------------------------------------------------------

    def admit(self, lengths: Sequence[int]) -> tuple[int, SwapPlan]:
        """How many of the waiting prompts, of so many positions each, may begin now: the first of them.

        They are counted as if they shared nothing. Those that make nothing at the moment give way to them.
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
        """Give a slot blocks for so many positions; says how many of the links are in them already."""
        assert slot not in self._held, slot
        assert slot not in self._swapped_out, slot
        shared = self.pool.lookup(links)
        self._held[slot] = self.pool.allocate(self.count(positions) - len(shared), shared)
        return len(shared)

    def cache(self, slot: int, links: Sequence[HashedBlock]) -> None:
        """The first blocks of a slot contain these links now."""
        self.pool.cache(self._held[slot][: len(links)], links)

    def free(self, slot: int) -> None:
        """A slot's sequence has ended, wherever its contents are; or there was none."""
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
        """Bring back the oldest of those away, while everybody who runs can still have a block more."""
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
        """Whether there are so many blocks, after the idle have given way."""
        while not self.pool.can_allocate(blocks) and idle:
            self._preempt(idle.pop(), moves)
        return self.pool.can_allocate(blocks)

    def _preempt(self, slot: int, moves: SwapPlan) -> None:
        held = self._held.pop(slot)
        self._swapped_out[slot] = len(held)
        self.pool.free(held)
        moves.leaving.append((slot, held))
        moves.changed.discard(slot)
