"""Decoding for streams whose audio the engine does not decode: in windows, or in a thread or device of its own."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from ..model.codec_decoder import CodecDecoder
from ..model.streaming import CodecState
from ..runtime.cuda_graphs import WindowGraphs
from ..scheduler.edges import fade_out, half_cosine
from ..scheduler.job import RUNAWAY, ChunkOutput
from .optimizations import Optimizations
from .stream_options import WindowPlan

WindowDecode = Callable[[Tensor], Tensor]
"""Codes [16, n] on the host → a wave [1920 · n] there, decoded without a past; or the same with a batch axis."""
BatchOutput = list[ChunkOutput | None]
"""What one step of the engine has made for each stream of a batch."""
WaveStream = Generator[list[Tensor], None, None]
"""For each `BatchOutput` one wave per stream, float32 on the host; empty where there is no output."""

log = logging.getLogger(__name__)


class ChunkDecoder(Protocol):
    """Decodes the chunks of one stream, in order."""

    def decode(self, output: ChunkOutput) -> Tensor:
        """Return the audio that is ready after this chunk: float32 [n] on the host."""


class StreamingChunkDecoder:
    """Decodes frame by frame and exactly, as the engine's codec does, after a `reference` of codes [frames, 16]."""

    def __init__(self, decoder: CodecDecoder, reference: Tensor | None) -> None:
        self._decoder, self._reference = decoder, reference
        self._device = decoder.quantizer.table.device
        self._state: CodecState | None = None  # allocated by the thread, and on the CUDA stream, that decodes

    @torch.inference_mode()
    def decode(self, output: ChunkOutput) -> Tensor:
        if self._state is None:
            self._state = self._decoder.allocate(1)
            if self._reference is not None:
                self._step(self._reference.T, self._state)
        wave = self._step(output.codes, self._state) if output.codes.shape[1] else torch.empty(0)
        return _fade_runaway(wave, output, self._decoder.frame_samples)

    def _step(self, codes: Tensor, state: CodecState) -> Tensor:
        slot = torch.zeros(1, dtype=torch.int64, device=self._device)
        wave = self._decoder.step(codes[None].to(self._device), slot, state)[0]
        return wave.float().cpu()


class WindowedChunkDecoder:
    """Decodes each chunk anew together with some frames before it, and cross-fades it with the chunk before.

    The last `overlap` samples of a chunk are held back: the next window decodes the same samples again, and a Hann
    ramp fades from one version to the other. Every sample keeps its place in time. The frames before the first chunk
    are those of the `reference` [frames, 16], if there is one.
    """

    def __init__(self, decode: WindowDecode, plan: WindowPlan, reference: Tensor | None, frame_samples: int) -> None:
        self._decode, self._plan, self._frame_samples = decode, plan, frame_samples
        self._codes = torch.empty(16, 0, dtype=torch.int64) if reference is None else reference.T
        self._held_back = torch.empty(0)
        self._chunk = 0

    @torch.inference_mode()
    def decode(self, output: ChunkOutput) -> Tensor:
        wave = self._decode_window(output.codes) if output.codes.shape[1] else self._held_back
        if self._chunk == 0:
            wave = fade_in(wave, self._plan.overlap)
        self._chunk += 1
        if output.ended:
            self._held_back = torch.empty(0)
            return _fade_runaway(fade_out(wave, self._plan.overlap), output, self._frame_samples)
        ready = len(wave) - self._plan.overlap
        self._held_back = wave[ready:]
        return wave[:ready]

    def _decode_window(self, codes: Tensor) -> Tensor:
        """Return the samples held back, cross-faded, and those of the new frames."""
        self._codes = torch.cat((self._codes, codes), dim=1)[:, -self._plan.longest :]
        wave = self._decode(self._codes[:, -self._plan.frames(self._chunk) :])
        start = len(wave) - codes.shape[1] * self._frame_samples - len(self._held_back)
        assert start >= 0, (codes.shape, wave.shape, self._held_back.shape)
        return cross_fade(self._held_back, wave[start:])


def cross_fade(old: Tensor, new: Tensor) -> Tensor:
    """Return `new` [n] with its first m samples fading in while `old` [m], an earlier version of them, fades out."""
    count = len(old)
    ramp = half_cosine(count, rising=True)
    mixed = old * (1 - ramp) + new[:count] * ramp
    return torch.cat((mixed, new[count:]))


def fade_in(wave: Tensor, samples: int) -> Tensor:
    """Return the wave with its first `samples` samples multiplied by a rising half cosine."""
    count = min(samples, len(wave))
    return torch.cat((wave[:count] * half_cosine(count, rising=True), wave[count:]))


def _fade_runaway(wave: Tensor, output: ChunkOutput, frame_samples: int) -> Tensor:
    """Fade the end of speech that was broken off, as the engine does with audio that it decodes itself."""
    return fade_out(wave, frame_samples) if output.ended and output.cut in RUNAWAY else wave


def decode_outputs(outputs: Iterator[BatchOutput], decoders: Sequence[ChunkDecoder] | None = None) -> WaveStream:
    """Yield the waves of each output: the engine's own, or made by one decoder per stream."""
    return (_decode_output(each, decoders) for each in outputs)


def decode_outputs_in_thread(
    outputs: Iterator[BatchOutput], decoders: Sequence[ChunkDecoder], initializer: Callable[[], None]
) -> WaveStream:
    """Decode in a thread of its own while the engine makes the next frames; each wave is yielded one output later.

    `initializer` runs in that thread first. Closing the generator does not wait for a decode in progress.
    """
    thread = ThreadPoolExecutor(1, "codec", initializer)
    try:
        pending: Future[list[Tensor]] | None = None
        for each in outputs:
            submitted = thread.submit(_decode_output, each, decoders)
            if pending:
                yield pending.result()
            pending = submitted
        if pending:
            yield pending.result()
    finally:
        # The garbage collector may close this in the decoding thread, or in one that holds a lock the decode needs.
        thread.shutdown(wait=False, cancel_futures=True)


def _decode_output(outputs: BatchOutput, decoders: Sequence[ChunkDecoder] | None) -> list[Tensor]:
    if decoders is None:
        return [torch.empty(0) if output is None else output.wave for output in outputs]
    pairs = zip(outputs, decoders, strict=True)
    return [torch.empty(0) if output is None else decoder.decode(output) for output, decoder in pairs]


class WindowDecoder:
    """Decodes windows of codes without a past, of any length; windows of the prepared length are faster on a GPU.

    On a `device` other than the decoder's it copies the weights there at its first use.
    """

    def __init__(self, decoder: CodecDecoder, device: torch.device | None = None) -> None:
        home = decoder.quantizer.table.device
        self.device = device or home
        self._original = decoder
        self._own: CodecDecoder | None = decoder if self.device == home else None
        self._graphs: WindowGraphs | None = None
        self._compiled: tuple[int, WindowDecode] | None = None
        self._options: Optimizations | None = None
        self._lock = threading.RLock()  # a graph has one input and one output

    @property
    def decoder(self) -> CodecDecoder:
        """The decoder on this device."""
        with self._lock:
            if self._own is None:
                self._own = copy.deepcopy(self._original).to(self.device)
            return self._own

    def prepare(self, options: Optimizations) -> None:
        """Compile and capture windows of `decode_window_frames` frames, once for the same options; on a GPU only.

        Raises OutOfMemoryError of torch; after any other failure windows are decoded eagerly, which is logged.
        """
        if self.device.type != "cuda" or options == self._options:
            return
        with self._lock, torch.cuda.device(self.device):
            self._options, self._compiled, self._graphs = options, None, None
            try:
                self._prepare(options)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # torch.compile raises many types; eager decoding still works
                log.warning("windows are decoded eagerly: %s", str(error).strip().splitlines()[0])

    @torch.inference_mode()
    def _prepare(self, options: Optimizations) -> None:
        run: WindowDecode = self.decoder.decode
        window = torch.zeros(1, 16, options.decode_window_frames, dtype=torch.int64, device=self.device)
        if options.use_compile:
            run = torch.compile(run, dynamic=False, mode=options.inductor_mode)
            run(window)
            self._compiled = window.shape[2], run
        if options.use_cuda_graphs:
            graphs = WindowGraphs(self.device)
            graphs.capture((1, window.shape[2]), (window,), run)
            self._graphs = graphs

    @torch.inference_mode()
    def decode(self, codes: Tensor, prepared: bool = True) -> Tensor:
        """Decode codes [B, 16, T] → float32 [B, 1920 · T] on the host; eagerly unless `prepared`."""
        with self._lock:
            run = self._run(codes.shape[0], codes.shape[2]) if prepared else self.decoder.decode
            return run(codes.to(self.device)).float().cpu()

    def window(self, codes: Tensor, prepared: bool = True) -> Tensor:
        """Decode one window: codes [16, T] → float32 [1920 · T] on the host."""
        return self.decode(codes[None], prepared)[0]

    def use_own_stream(self) -> None:
        """Set a separate CUDA stream for the calling thread, so that its work runs beside other work on this GPU."""
        if self.device.type == "cuda":
            stream = torch.cuda.Stream(self.device)
            torch.cuda.set_stream(stream)

    def _run(self, rows: int, frames: int) -> WindowDecode:
        if self._graphs and (graph := self._graphs.find(rows, frames)):
            return graph
        if self._compiled and self._compiled[0] == frames:
            return self._compiled[1]
        return self.decoder.decode
