"""The few calls that move running sequences on. None of them waits for the device.

Frames are made on the current CUDA stream, sound on a stream of its own beside it. Each is strictly in order, and that
is all the protection a slot needs: what a new job writes is ordered after everything that was launched for the old one.
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
"""Attention reads a multiple of this many positions, so that there are few shapes."""
CHUNK_SHAPES = ((32, 256), (64, 256), (128, 512), (256, 512), (512, 1024))
"""To how many positions chunks of prompts are padded on a GPU, and how many attention reads: few, to be captured."""
READ_WITHIN = RING_FRAMES // 2
"""The codec must have read its codes from the ring after this many further frames, or the next frame waits for it."""


class PendingCodes:
    """A frame that has been launched."""

    def __init__(self, arrival: HostCopy, rows: int) -> None:
        self._arrival, self._rows = arrival, rows

    def codes(self) -> list[list[int]]:
        """Wait for it: [B][16]."""
        return self._arrival.read()[: self._rows].tolist()


class PendingAudio:
    """Sound that has been launched."""

    def __init__(self, arrival: HostCopy, rows: int) -> None:
        self._arrival, self._rows = arrival, rows

    @property
    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return self._arrival.ready

    def read(self) -> Tensor:
        """Wait for it: float32 [B, 1920 · frames] on the host."""
        return self._arrival.read()[: self._rows]


class Runner:
    """Talker, code predictor and codec over static slots.

    Every slot can hold `max_positions`. With `first_positions` memory is taken for that many at first, and for twice
    as many whenever a sequence outgrows them. `lag` is how many launches its user should be ahead of the results; with
    a lag batches are padded to a `bucket`. By default 1 on a GPU, where that hides the host's work, and 0 on the CPU.
    `strategies` may be replaced until the first sequence begins.
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
        self._reads: deque[tuple[int, torch.cuda.Event]] = deque()  # codec steps, each with the launches before it
        self._free_events: list[torch.cuda.Event] = []
        self._launches = 0
        # What the device counts too, on the host, a number per slot:
        self._next = [0] * (slots + 1)  # position of the next input
        self._made = [0] * (slots + 1)  # frames ever launched
        self._decoded = [0] * (slots + 1)  # frames ever launched or given up, for the codec

    @property
    def decode_frames(self) -> int:
        """The most frames of one `decode`."""
        return self.strategies.codec.sizes[0]

    def room(self, slot: int) -> int:
        """How many positions a slot has left."""
        return self.max_positions - self._next[slot]

    def admit(self, lengths: Sequence[int]) -> int:
        """Return how many of the waiting prompts, of these lengths, may start now, in order."""
        return len(lengths)

    def fitting(self, slots: Sequence[int]) -> Sequence[int]:
        """Those of the slots that wish to go on, the oldest first, for whose next position there is memory."""
        return slots

    def release(self, slot: int) -> None:
        """Free what a slot holds: its sequence has ended."""

    # --- a sequence begins --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, entries: Sequence[PrefillRequest]) -> None:
        """Bring sequences into their slots: all of the prompt but its last position, whose text `advance` takes.

        Doing it again begins again, so a call that ran out of memory leaves nothing behind.
        """
        self._read(entries)
        for entry in entries:
            self._settle(entry)

    def _read(self, entries: Sequence[PrefillRequest]) -> None:
        """Make the keys and values of all but each prompt's last position."""
        self._reserve(max(len(entry.prompt.head) for entry in entries))
        for entry in entries:
            self._put_prefix(entry)
            if body := entry.prompt.body[:-1]:
                self.read_chunks(
                    [PrefillChunk(self._embedder.embed(body, entry.voice), entry.slot, len(entry.prompt.prefix))]
                )

    def _put_prefix(self, entry: PrefillRequest) -> None:
        """Copy the prefix's keys and values, or make them."""
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
        """Make keys and values of chunks of prompts."""
        (self.strategies.read_chunks or self.read_apart)(chunks)

    def read_apart(self, chunks: Sequence[PrefillChunk]) -> None:
        """Read each chunk alone, padded at its end and as a graph where there is one: always to the same bits."""
        graphs = self.strategies.prompt_graphs
        for chunk in chunks:
            count = len(chunk.inputs)
            size, length = self._chunk_shape(count, chunk.start)
            inputs = F.pad(chunk.inputs, (0, 0, 0, size - count))[None]  # [1, size, H]
            slot, start = upload([[chunk.slot], [chunk.start]], self.device)
            graph = graphs.find(size, length) if graphs else None
            (graph or partial(self.read_padded, length))(inputs, slot, start)

    def read_padded(self, length: int, inputs: Tensor, slots: Tensor, starts: Tensor) -> Tensor:
        """Inputs [B, T, H] of slots [B] from positions starts [B] on; attention reads `length` positions."""
        return self.model.talker(inputs, self.state.cache, BatchRows(slots, starts, length))

    def _chunk_shape(self, count: int, start: int) -> tuple[int, int]:
        """To how many positions a chunk is padded, and how many attention reads."""
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
        state.next[slot].fill_(last)  # `= last` would wait for the device
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
        self._keep_ring()
        codes = self._make_frame(rows[0], text, length)
        self._launches += 1
        for slot in slots:
            self._next[slot] += 1
            self._made[slot] += 1
        return PendingCodes(HostCopy(codes, self._buffers, staged), len(slots))

    def _make_frame(self, slots: Tensor, text: Tensor, positions: int) -> Tensor:
        """Slots and text ids (or rows) of a padded batch → codes [B, 16], as a graph where there is one."""
        graphs = self.strategies.frame_graphs
        if graphs and (graph := graphs.find(len(slots), positions)):
            return graph(slots, text)
        slots, text = (rows.to(self.device, non_blocking=True) for rows in (slots, text))
        return self.strategies.step(slots, text, slots < self.slots, self._length(positions))

    def _keep_ring(self) -> None:
        """Keep frames from overwriting codes that the codec has been ordered to read and has not read yet."""
        while self._reads and self._reads[0][0] <= self._launches - READ_WITHIN:
            _, read = self._reads.popleft()
            torch.cuda.current_stream(self.device).wait_event(read)
            self._free_events.append(read)

    # --- sound --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], frames: int, urgent: bool = False) -> PendingAudio:
        """Launch the codec on each slot's next `frames` (at most `decode_frames`) frames that it has not had.

        No further frame takes multiprocessors from `urgent` sound: it begins when that is made.
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
        """Slots of a padded batch and where in the ring their codes begin, [2, B] → [B, 1920 · frames]."""
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
        """The codec's state after a reference's codes [frames, 16], for streams that continue it."""
        if self._side is not None:  # the codes may just have been made on a GPU
            self._side.wait_stream(torch.cuda.current_stream(self.device))
        with self.beside():
            snapshot: CodecSnapshot = self.strategies.codec.prime(send(codes, self.device))
            return snapshot

    def beside(self) -> AbstractContextManager[object]:
        """The codec's stream. Its state and the snapshots of it are touched there only."""
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)

    # --- shapes -------------------------------------------------------------------------------------------------

    def _batch(self, rows: int) -> int:
        return bucket(rows) if self.lag else rows

    def _length(self, positions: int) -> int:
        return min(self.state.cache.max_positions, -(-positions // LENGTH_STEP) * LENGTH_STEP)

    def _reserve(self, positions: int) -> None:
        """Make the cache long enough. It moves then, which only a `first_positions` asks for."""
        size = self.state.cache.max_positions
        while size < positions:
            size = min(2 * size, self.max_positions)
        self.state.cache = self.state.cache.grown(size)
