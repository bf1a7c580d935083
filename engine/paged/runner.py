"""A runner whose slots hold blocks of one pool as they need them, instead of a row each that is as long as can be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.speech_model import SpeechModel
from ..prompt.planner import content_digest
from ..runtime.model_runner import Runner
from ..runtime.prefill import PrefillChunk, PrefillRequest, VoiceVectors
from .block_manager import BlockManager, SwapPlan
from .block_pool import BlockPool, HashedBlock, VoiceContent, hash_blocks
from .kv_cache import PagedCache, PoolSize


class PagedRunner(Runner):
    """Speaks exactly what a `Runner` does, out of blocks.

    A prompt's full blocks are shared with prompts that start alike, until the blocks are reused; the rest of a
    prefix, less than a block, is copied. `max_positions` must fit into the pool. Its frames need `fitting` to be asked.
    """

    @torch.inference_mode()
    def __init__(
        self, model: SpeechModel, slots: int, max_positions: int, size: PoolSize, lag: int | None = None
    ) -> None:
        super().__init__(model, slots, max_positions, first_positions=1, lag=lag)
        self.cache = PagedCache(model.config.talker, slots + 1, max_positions, size, model.talker.head.weight)
        self.state.cache = self.cache
        self.paging = BlockManager(BlockPool(size.blocks), size.block_positions)
        self._page = size.block_positions
        self._stowed: dict[int, Tensor] = {}  # contents of slots that have given way, in host memory

    # --- who may go on ------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def admit(self, lengths: Sequence[int]) -> int:
        admitted, moves = self.paging.admit(lengths)
        self._carry_out(moves)
        return admitted

    @torch.inference_mode()
    def fitting(self, slots: Sequence[int]) -> Sequence[int]:
        moves = self.paging.advance([(slot, self._next[slot]) for slot in slots])
        self._carry_out(moves)
        return moves.going

    def release(self, slot: int) -> None:
        self._stowed.pop(slot, None)
        self.paging.free(slot)

    def _carry_out(self, moves: SwapPlan) -> None:
        for slot, blocks in moves.leaving:
            self._stowed[slot] = self.cache.read(blocks)
        for slot, blocks in moves.returning:
            self.cache.write(blocks, self._stowed.pop(slot))
        self.cache.set_rows({slot: self.paging.blocks(slot) for slot in moves.changed})

    # --- prompts ------------------------------------------------------------------------------------------------

    def _read(self, entries: Sequence[PrefillRequest]) -> None:
        pieces, chains = [], {}
        for entry in entries:
            chains[entry.slot] = links = hash_blocks(entry.prompt.head[:-1], _content(entry.voice), self._page)
            known = self._put_known(entry, links)
            if body := entry.prompt.head[known:-1]:
                pieces.append(PrefillChunk(self._embedder.embed(body, entry.voice), entry.slot, known))
        if pieces:
            self.read_chunks(pieces)
        for slot, links in chains.items():
            self.paging.cache(slot, links)

    def _put_known(self, entry: PrefillRequest, links: Sequence[HashedBlock]) -> int:
        """Allocate blocks for the whole prompt, and fill at least its prefix; return how many positions are filled."""
        slot = entry.slot
        self.release(slot)
        shared = self.paging.allocate(slot, links, len(entry.prompt.head))
        self.cache.set_rows({slot: self.paging.blocks(slot)})
        return self._complete_prefix(entry, links, shared * self._page)

    def _complete_prefix(self, entry: PrefillRequest, links: Sequence[HashedBlock], known: int) -> int:
        """Read what its first `known` positions lack, alone in a batch, so that a prefix is always the same bits."""
        prompt, slot = entry.prompt, entry.slot
        whole, rest = divmod(len(prompt.prefix), self._page)
        if known >= len(prompt.prefix):
            return known
        last = self.paging.blocks(slot)[whole]
        if known == whole * self._page and (tail := self.prefixes.get(prompt.prefix_key)) is not None:
            self.cache.put_tail(last, tail)
            return len(prompt.prefix)
        self.read_chunks([PrefillChunk(self._embedder.embed(prompt.prefix[known:], entry.voice), slot, known)])
        self.paging.cache(slot, links[:whole])
        if rest:
            tail = self.cache.tail(last, rest)
            self.prefixes.put(prompt.prefix_key, tail, tail.nbytes)
        return len(prompt.prefix)


def _content(voice: VoiceVectors) -> VoiceContent:
    """What a voice's vectors are, as bytes."""
    speaker, frames = b"", []
    if voice.speaker is not None:
        numbers = voice.speaker.float().cpu().contiguous()
        speaker = bytes.fromhex(content_digest(numbers.numpy().tobytes()))
    if voice.codes is not None:
        frames = [row.tobytes() for row in voice.codes.to("cpu", torch.int64).contiguous().numpy()]
    return VoiceContent(speaker, frames)
