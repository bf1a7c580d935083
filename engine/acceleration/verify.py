"""Self-checks at load: compare other kernels with eager torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from ..model.config import CODE_GROUPS, CODEBOOK_SIZE
from ..model.talker import BatchRows
from ..runtime.model_runner import Runner
from .capture import SHORTEST_READ

if TYPE_CHECKING:
    from ..kernels.codec import FusedCodec
    from .fused import FusedDecodeStep

LEAST_COSINE = 0.995
LEAST_CODEC_DB = 32.0
FRAMES = 16
"""Number of frames over which codecs are compared, in two steps."""


class UnusableKernels(Exception):
    """These kernels cannot serve this model on this device; the message states the reason."""


def check_frame(runner: Runner, fused: FusedDecodeStep) -> None:
    """Raise UnusableKernels if the fused decode step deviates too much from eager torch."""
    if (cosine := frame_cosine(runner, fused)) < LEAST_COSINE:
        raise UnusableKernels(f"self-check failed (cosine {cosine:.4f}, at least {LEAST_COSINE} required)")


def check_codec(runner: Runner, codec: FusedCodec) -> None:
    """Raise UnusableKernels if the fused codec deviates too much from the eager one."""
    if (decibels := codec_decibels(runner, codec)) < LEAST_CODEC_DB:
        raise UnusableKernels(f"self-check failed (codec {decibels:.1f} dB, at least {LEAST_CODEC_DB} dB required)")


def frame_cosine(runner: Runner, fused: FusedDecodeStep) -> float:
    """Return the smallest cosine similarity between the outputs of both steps, using the spare slot."""
    model, state = runner.model, runner.state
    slots = torch.full((1,), runner.slots, device=runner.device)
    noise = torch.Generator(runner.device).manual_seed(0)
    state.frame[runner.slots] = torch.randn(state.frame.shape[1], generator=noise, device=runner.device)
    text = torch.zeros(1, runner.model.talker.config.transformer.hidden_size, device=runner.device).to(state.frame)
    batch = fused.batch(slots, text, slots < runner.slots)
    cosines = []
    for position in range(3):  # several positions, so that there is a past to attend to
        state.next[runner.slots] = position
        x, _ = fused.talker(batch)  # a single row leaves no parts to add
        ours = model.talker.norm(x)
        rows = BatchRows(slots, state.next[slots], min(SHORTEST_READ, state.cache.max_positions))
        hidden, _ = model.talker.step(state.frame[slots] + text, state.cache, rows)
        cosines.append(F.cosine_similarity(ours.float(), hidden.float()).min())
    code0 = torch.zeros(1, dtype=torch.int64, device=runner.device)
    theirs = model.code_predictor.first(hidden, code0, state.predictor)
    cosines.append(F.cosine_similarity(fused.first_scores(hidden, code0).float(), theirs.float()).min())
    state.next[runner.slots] = 0
    return torch.stack(cosines).min().nan_to_num(0).item()


def codec_decibels(runner: Runner, codec: FusedCodec) -> float:
    """Return the signal-to-noise ratio (dB) of the fused codec against the eager one, over a few frames."""
    spare = torch.full((1,), runner.slots, device=runner.device)
    noise = torch.Generator(runner.device).manual_seed(0)
    codes = torch.randint(0, CODEBOOK_SIZE, (FRAMES, CODE_GROUPS), generator=noise, device=runner.device)
    ring = codes.expand(runner.slots + 1, FRAMES, CODE_GROUPS).contiguous()
    start = torch.zeros_like(spare)
    steps = [codec.step(ring, start + 8 * n, spare, 8) for n in range(2)]
    codec.reset(runner.slots)
    exact = runner.model.decoder.decode(codes.T[None]).float()
    error = (torch.cat(steps, dim=1) - exact).square().mean()
    return (10 * torch.log10(exact.square().mean() / error)).nan_to_num(0).item()
