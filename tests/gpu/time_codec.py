"""Milliseconds a step of the codec in a CUDA graph, kernels beside torch, and the noise of each against float32.

python -m tests.gpu.time_codec [--batches 1 8 32] [--frames 1 2 4 8]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from engine.kernels.codec import FusedCodec
from engine.model.codec_decoder import CodecDecoder
from tests.gpu.full_codec import codes, full_decoder, snr

Step = Callable[[Tensor, Tensor], Tensor]
"""codes [B, T, 16] of slots [B] → wave [B, 1920 · T]."""
REPLAYS = 100
NOISE_FRAMES = 96


def torch_step(decoder: CodecDecoder, slots: int) -> Step:
    state = decoder.allocate(slots, max_step_frames=8)
    return lambda codes, rows: decoder.step(codes.transpose(1, 2), rows, state)


def fused_step(dtype: torch.dtype, slots: int) -> Step:
    """The codes given are the rings, each of exactly one step."""
    codec = FusedCodec(full_decoder(), slots, dtype, "cuda")
    return lambda codes, rows: codec.step(codes, torch.zeros_like(rows), rows, codes.shape[1])


def milliseconds(step: Step, batch: int, frames: int) -> float:
    """Return the duration of one replayed step without waiting for the host."""
    given, rows = codes(batch, frames), torch.arange(batch, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step(given, rows)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(given, rows)
    graph.replay()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(REPLAYS):
        graph.replay()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1000 / REPLAYS


def noise(step: Step) -> float:
    """Signal-to-noise ratio in dB of two fresh streams cut in steps of 4 frames."""
    given, rows = codes(2, NOISE_FRAMES, 1), torch.arange(2, device="cuda")
    wave = torch.cat([step(piece.contiguous(), rows) for piece in given.split(4, dim=1)], dim=-1)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    exact = full_decoder().decode(given.transpose(1, 2))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    return snr(wave.float(), exact)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    slots = max(2, *args.batches)
    steps = {
        "kernels float16": lambda: fused_step(torch.float16, slots),
        "kernels tf32": lambda: fused_step(torch.float32, slots),
        "torch float32, tf32": lambda: torch_step(full_decoder(), slots),
        "torch float16": lambda: torch_step(full_decoder(torch.float16), slots),
    }
    print(torch.cuda.get_device_name())
    for name, build in steps.items():
        step = build()
        print(f"{name}: {noise(step):.1f} dB", flush=True)
        for batch in args.batches:
            spent = [f"T={frames} {milliseconds(step, batch, frames):.3f}" for frames in args.frames]
            print(f"  B={batch}: {', '.join(spent)} ms", flush=True)


if __name__ == "__main__":
    main()
