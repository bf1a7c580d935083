"""The codec decoder for windows that are decoded by themselves, where wanted prepared for windows of one length."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from ..model.codec_decoder import CodecDecoder
from ..runtime.cuda_graphs import WindowGraphs
from .optimizations import Optimizations

WindowDecode = Callable[[Tensor], Tensor]

log = logging.getLogger(__name__)


class WindowDecoder:
    """Decodes codes without a past. Any length will do; the prepared one is faster on a GPU.

    On a `device` that is not the decoder's it has weights of its own, from its first use on.
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
        """Make windows of `decode_window_frames` frames faster, once for the same options; on a GPU only."""
        if self.device.type != "cuda" or options == self._options:
            return
        with self._lock, torch.cuda.device(self.device):
            self._options, self._compiled, self._graphs = options, None, None
            try:
                self._prepare(options)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler we do not control raises: plain torch still decodes
                log.warning("windows are decoded operation by operation: %s", str(error).strip().splitlines()[0])

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
        """Codes [B, 16, T] → float32 [B, 1920 · T] on the host; with `prepared` False always operation by operation."""
        with self._lock:
            run = self._run(codes.shape[0], codes.shape[2]) if prepared else self.decoder.decode
            return run(codes.to(self.device)).float().cpu()

    def window(self, codes: Tensor, prepared: bool = True) -> Tensor:
        """One window: codes [16, T] → [1920 · T] on the host."""
        return self.decode(codes[None], prepared)[0]

    def enter(self) -> None:
        """Let the calling thread decode on a stream of its own, beside what others do on this GPU."""
        if self.device.type == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream(self.device))

    def _run(self, rows: int, frames: int) -> WindowDecode:
        if self._graphs and (graph := self._graphs.find(rows, frames)):
            return graph
        if self._compiled and self._compiled[0] == frames:
            return self._compiled[1]
        return self.decoder.decode
