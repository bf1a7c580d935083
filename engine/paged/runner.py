"""A runner that allocates blocks from a shared pool on demand instead of one full-length row per slot."""

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
    """Generates exactly what a `Runner` does, using a paged KV cache.

    A prompt's full blocks are shared with all prompts that start with the same content, until they are reallocated. The
    rest of a prefix, less than a block, is copied. `max_positions` must fit into the pool. `fitting` must be called
    before each frame.
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
        self._swapped: dict[int, Tensor] = {}  # contents of swapped-out slots, in host memory

    # --- scheduling ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def admit(self, lengths: Sequence[int]) -> int:
        admitted, moves = self.paging.admit(lengths)
        self._execute(moves)
        return admitted

    @torch.inference_mode()
    def fitting(self, slots: Sequence[int]) -> Sequence[int]:
        moves = self.paging.advance([(slot, self._next[slot]) for slot in slots])
        self._execute(moves)
        return moves.schedulable

    def release(self, slot: int) -> None:
        self._swapped.pop(slot, None)
        self.paging.free(slot)

    def _execute(self, moves: SwapPlan) -> None:
        for slot, blocks in moves.swap_out:
            self._swapped[slot] = self.cache.read(blocks)
        for slot, blocks in moves.swap_in:
            self.cache.write(blocks, self._swapped.pop(slot))
        self.cache.set_rows({slot: self.paging.blocks(slot) for slot in moves.changed})

    # --- prompts ------------------------------------------------------------------------------------------------

    def _read(self, entries: Sequence[PrefillRequest]) -> None:
        pieces, chains = [], {}
        for entry in entries:
            chains[entry.slot] = links = hash_blocks(entry.prompt.head[:-1], _content(entry.voice), self._page)
            known = self._put_cached(entry, links)
            if body := entry.prompt.head[known:-1]:
                pieces.append(PrefillChunk(self._embedder.embed(body, entry.voice), entry.slot, known))
        if pieces:
            self.read_chunks(pieces)
        for slot, links in chains.items():
            self.paging.cache(slot, links)

    def _put_cached(self, entry: PrefillRequest, links: Sequence[HashedBlock]) -> int:
        """Allocate blocks for the prompt and fill in at least the prefix; return how many positions are filled."""
        slot = entry.slot
        self.release(slot)
        shared = self.paging.allocate(slot, links, len(entry.prompt.head))
        self.cache.set_rows({slot: self.paging.blocks(slot)})
        return self._complete_prefix(entry, links, shared * self._page)

    def _complete_prefix(self, entry: PrefillRequest, links: Sequence[HashedBlock], known: int) -> int:
        """Fill in the prefix beyond its first `known` positions, in its own batch so that it is bit-reproducible.

        Return the number of positions whose keys and values are complete.
        """
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
    """Return a voice's vectors as bytes."""
    speaker, frames = b"", []
    if voice.speaker is not None:
        numbers = voice.speaker.float().cpu().contiguous()
        speaker = bytes.fromhex(content_digest(numbers.numpy().tobytes()))
    if voice.codes is not None:
        frames = [row.tobytes() for row in voice.codes.to("cpu", torch.int64).contiguous().numpy()]
    return VoiceContent(speaker, frames)
