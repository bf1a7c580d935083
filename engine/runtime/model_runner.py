"""Advances running sequences on the device. No call waits for the device.

Frames are computed on the current CUDA stream, audio on a separate stream beside it. Each stream runs strictly in
order, which is the only synchronisation a slot needs: a new job's writes are queued behind all of the old job's work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.speech_model import SpeechModel
from ..model.streaming import CodecSnapshot, in_steps
from ..model.talker import BatchRows, TalkerCache
from .codec_step import EagerCodec
from .decode_step import EagerDecodeStep
from .prefill import PrefillChunk, PrefillRequest, PromptEmbedder
from .prefix_cache import PrefixCache
from .slot_state import RING_FRAMES, SlotState, bucket
from .strategies import Strategies
from .transfer import HostBuffers, HostCopy, send, upload

LENGTH_STEP = 256
"""The number of positions read by attention is rounded up to a multiple of this, to limit the number of shapes."""
CHUNK_SHAPES = ((32, 256), (64, 256), (128, 512), (256, 512), (512, 1024))
"""(padded length, positions read by attention) of prompt chunks on a GPU; few shapes, so that all can be captured."""
READ_WITHIN = RING_FRAMES // 2
"""After this many further frames, the next frame waits until the codec has read its codes from the ring."""


class PendingCodes:
    """A launched frame."""

    def __init__(self, arrival: HostCopy, rows: int) -> None:
        self._arrival, self._rows = arrival, rows

    def codes(self) -> list[list[int]]:
        """Wait for the codes: [B][16]."""
        return self._arrival.read()[: self._rows].tolist()


class PendingAudio:
    """Launched audio."""

    def __init__(self, arrival: HostCopy, rows: int) -> None:
        self._arrival, self._rows = arrival, rows

    @property
    def ready(self) -> bool:
        """True if `read` would not block."""
        return self._arrival.ready

    def read(self) -> Tensor:
        """Wait for the audio: float32 [B, 1920 · frames] on the host."""
        return self._arrival.read()[: self._rows]


class Runner:
    """Talker, code predictor and codec over static slots.

    Every slot can hold `max_positions`. With `first_positions`, memory is allocated for that number first and doubled
    whenever a sequence outgrows it. `lag` is the number of launches by which the caller should be ahead of the
    results; with a lag, batches are padded to a `bucket`. Default: 1 on a GPU, where this hides the host's work, and 0
    on the CPU. `strategies` may be replaced until the first sequence starts.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: SpeechModel,
        slots: int,
        max_positions: int,
        first_positions: int | None = None,
        lag: int | None = None,
    ) -> None:
        self.model, self.slots, self.max_positions = model, slots, max_positions
        self.device = model.talker.head.weight.device
        on_gpu = self.device.type == "cuda"
        self.lag = int(on_gpu) if lag is None else lag
        self.frame_samples = model.decoder.frame_samples
        self.prefixes: PrefixCache[Tensor] = PrefixCache()
        self.state = SlotState.allocate(model, slots, min(first_positions or max_positions, max_positions))
        self.strategies = Strategies(EagerDecodeStep(model, self.state), EagerCodec(model.decoder, slots + 1))
        self._embedder = PromptEmbedder(model.talker)
        self._buffers = HostBuffers(pinned=on_gpu)
        self._side = torch.cuda.Stream(self.device, priority=-1) if on_gpu else None
        self._frame_done = torch.cuda.Event() if on_gpu else None
        self._reads: deque[tuple[int, torch.cuda.Event]] = deque()  # codec steps, each with its launch number
        self._free_events: list[torch.cuda.Event] = []
        self._launches = 0
        # Host copies of device counters, one per slot:
        self._next = [0] * (slots + 1)  # position of the next input
        self._made = [0] * (slots + 1)  # total frames launched
        self._decoded = [0] * (slots + 1)  # total frames passed to the codec or skipped

    @property
    def decode_frames(self) -> int:
        """Maximum number of frames per `decode` call."""
        return self.strategies.codec.sizes[0]

    def room(self, slot: int) -> int:
        """Return the number of free positions in a slot."""
        return self.max_positions - self._next[slot]

    def admit(self, lengths: Sequence[int]) -> int:
        """Return how many of the waiting prompts, given their lengths in positions, can start now, in queue order."""
        return len(lengths)

    def fitting(self, slots: Sequence[int]) -> Sequence[int]:
        """Return those of `slots`, given oldest first, that have memory for their next position."""
        return slots

    def release(self, slot: int) -> None:
        """Release a slot whose sequence has ended."""

    # --- prefill ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, entries: Sequence[PrefillRequest]) -> None:
        """Prefill sequences into their slots: the whole prompt except its last position, which `advance` processes.

        Prefill is restartable: a call that ran out of memory can simply be repeated.
        """
        self._read(entries)
        for entry in entries:
            self._settle(entry)

    def _read(self, entries: Sequence[PrefillRequest]) -> None:
        """Compute keys and values of all but the last position of each prompt."""
        self._reserve(max(len(entry.prompt.head) for entry in entries))
        for entry in entries:
            self._put_prefix(entry)
            if body := entry.prompt.body[:-1]:
                self.read_chunks(
                    [PrefillChunk(self._embedder.embed(body, entry.voice), entry.slot, len(entry.prompt.prefix))]
                )

    def _put_prefix(self, entry: PrefillRequest) -> None:
        """Write the prefix's keys and values to the slot: from the cache, or computed."""
        prompt, cache = entry.prompt, self.state.cache
        count = len(prompt.prefix)
        if not count:
            return
        assert isinstance(cache, TalkerCache), type(cache)
        if (kept := self.prefixes.get(prompt.prefix_key)) is not None:
            cache.put_prefix(entry.slot, kept)
            return
        self.read_chunks([PrefillChunk(self._embedder.embed(prompt.prefix, entry.voice), entry.slot, 0)])
        kept = cache.prefix(entry.slot, count)
        self.prefixes.put(prompt.prefix_key, kept, kept.nbytes)

    def read_chunks(self, chunks: Sequence[PrefillChunk]) -> None:
        """Compute keys and values of prompt chunks."""
        (self.strategies.read_chunks or self.read_apart)(chunks)

    def read_apart(self, chunks: Sequence[PrefillChunk]) -> None:
        """Process each chunk separately, padded at its end and through a graph if there is one: bit-reproducible."""
        graphs = self.strategies.prompt_graphs
        for chunk in chunks:
            count = len(chunk.inputs)
            size, length = self._chunk_shape(count, chunk.start)
            inputs = F.pad(chunk.inputs, (0, 0, 0, size - count))[None]  # [1, size, H]
            slot, start = upload([[chunk.slot], [chunk.start]], self.device)
            graph = graphs.find(size, length) if graphs else None
            (graph or partial(self.read_padded, length))(inputs, slot, start)

    def read_padded(self, length: int, inputs: Tensor, slots: Tensor, starts: Tensor) -> Tensor:
        """Process inputs [B, T, H] of slots [B] from positions starts [B] on; attention reads `length` positions."""
        return self.model.talker(inputs, self.state.cache, BatchRows(slots, starts, length))

    def _chunk_shape(self, count: int, start: int) -> tuple[int, int]:
        """Return the padded length of a chunk, and the number of positions that attention reads."""
        shapes = CHUNK_SHAPES if self.lag else ()
        fitting = (
            (size, length) for size, length in shapes if count <= size and start + size <= length <= self.max_positions
        )
        size, length = next(fitting, (count, start + count))
        self._reserve(length)
        return size, self._length(length)

    def _settle(self, entry: PrefillRequest) -> None:
        state, slot = self.state, entry.slot
        last = len(entry.prompt.head) - 1
        state.frame[slot] = self._embedder.last_frame(entry.prompt.head[last], entry.voice)
        state.next[slot].fill_(last)  # `= last` would synchronise with the device
        state.sampler.join(slot, entry.sampling, entry.seed)
        self._next[slot] = last
        self._decoded[slot] = self._made[slot]
        with self.beside():
            if entry.primed is None:
                self.strategies.codec.reset(slot)
            else:
                self.strategies.codec.restore(slot, entry.primed)

    # --- frames -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def advance(self, slots: Sequence[int], text_ids: Sequence[int]) -> PendingCodes:
        """Launch the next frame of running sequences, each with its next text id."""
        fill = self._batch(len(slots)) - len(slots)
        ids = [*text_ids, *[0] * fill]
        rows, staged = self._buffers.stage([[*slots, *[self.slots] * fill], ids])
        text = rows[1] if self.model.talker.text.table.device == self.device else self._embedder.text(ids)
        length = 1 + max(self._next[slot] for slot in slots)
        self._reserve(length)
        self._wait_for_codec()
        codes = self._make_frame(rows[0], text, length)
        self._launches += 1
        for slot in slots:
            self._next[slot] += 1
            self._made[slot] += 1
        return PendingCodes(HostCopy(codes, self._buffers, staged), len(slots))

    def _make_frame(self, slots: Tensor, text: Tensor, positions: int) -> Tensor:
        """Map slots and text ids (or rows) of a padded batch → codes [B, 16], through a graph if there is one."""
        graphs = self.strategies.frame_graphs
        if graphs and (graph := graphs.find(len(slots), positions)):
            return graph(slots, text)
        slots, text = (rows.to(self.device, non_blocking=True) for rows in (slots, text))
        return self.strategies.step(slots, text, slots < self.slots, self._length(positions))

    def _wait_for_codec(self) -> None:
        """Prevent new frames from overwriting ring entries that a launched codec step has not read yet."""
        while self._reads and self._reads[0][0] <= self._launches - READ_WITHIN:
            _, read = self._reads.popleft()
            torch.cuda.current_stream(self.device).wait_event(read)
            self._free_events.append(read)

    # --- audio --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], frames: int, urgent: bool = False) -> PendingAudio:
        """Launch the codec on the next `frames` frames of each slot, at most `decode_frames`.

        If `urgent`, the next decode step waits for this audio, so that the two do not compete for multiprocessors.
        """
        assert all(self._decoded[slot] + frames <= self._made[slot] for slot in slots), (slots, frames)
        fill = self._batch(len(slots)) - len(slots)
        starts = [*(self._decoded[slot] % RING_FRAMES for slot in slots), *[0] * fill]
        if self._side is not None and self._frame_done is not None:
            self._frame_done.record(torch.cuda.current_stream(self.device))
            self._side.wait_event(self._frame_done)
        with self.beside():
            rows, staged = self._buffers.stage([[*slots, *[self.slots] * fill], starts])
            wave = self._make_wave(rows, frames)
            self._mark_read()
            arrival = HostCopy(wave, self._buffers, staged)
        if urgent and self._side is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        for slot in slots:
            self._decoded[slot] += frames
        return PendingAudio(arrival, len(slots))

    def _make_wave(self, rows: Tensor, frames: int) -> Tensor:
        """Decode a padded batch, given its slots and their start positions in the ring, [2, B] → [B, 1920 · frames]."""
        waves = []
        codec, graphs = self.strategies.codec, self.strategies.codec_graphs
        slots, starts = rows.to(self.device, non_blocking=True)
        for size in in_steps(frames, codec.sizes):
            graph = graphs.find(len(slots), size) if graphs else None
            step = graph or partial(codec.step, self.state.codes, frames=size)
            waves.append(step(starts, slots))
            starts = starts + size
        return waves[0] if len(waves) == 1 else torch.cat(waves, dim=1)

    def _mark_read(self) -> None:
        if self._side is not None:
            read = self._free_events.pop() if self._free_events else torch.cuda.Event()
            read.record(self._side)
            self._reads.append((self._launches, read))

    @torch.inference_mode()
    def prime(self, codes: Tensor) -> CodecSnapshot:
        """Return the codec's state after a reference's codes [frames, 16], for streams that continue it."""
        if self._side is not None:  # the codes may have just been computed on the current stream
            self._side.wait_stream(torch.cuda.current_stream(self.device))
        with self.beside():
            snapshot: CodecSnapshot = self.strategies.codec.prime(send(codes, self.device))
            return snapshot

    def beside(self) -> AbstractContextManager[object]:
        """Return a context on the codec's stream. Codec state and snapshots are only accessed on that stream."""
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)

    # --- shapes -------------------------------------------------------------------------------------------------

    def _batch(self, rows: int) -> int:
        return bucket(rows) if self.lag else rows

    def _length(self, positions: int) -> int:
        return min(self.state.cache.max_positions, -(-positions // LENGTH_STEP) * LENGTH_STEP)

    def _reserve(self, positions: int) -> None:
        """Ensure that the cache has room for `positions`. It may be reallocated, but only with `first_positions`."""
        size = self.state.cache.max_positions
        while size < positions:
            size = min(2 * size, self.max_positions)
        self.state.cache = self.state.cache.grown(size)
