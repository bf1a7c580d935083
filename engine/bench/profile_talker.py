"""Where a frame spends its time: each part alone, each way of running it, and a trace of the whole.

python -m engine.bench.profile_talker DIR [--batch 1 8 32] [--length 256] [--chunk-frames 1 8] [--trace FILE] [--json]

`PREDICTORS` and its neighbours name the ways; a way is a function that prepares one call of the part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..model.config import CODE_GROUPS, CODEBOOK_SIZE
from ..model.speech_model import SpeechModel
from ..model.talker import BatchRows
from ..prompt.sampling_params import SamplingParams
from ..runtime.slot_state import RING_FRAMES, SlotState
from .machine import seconds
from .metrics import Figure
from .report import command_line, engine_parser, json_line, text_line
from .speech import TEXT, BenchRequest, BenchSpeaker

TOP = 25
TRACED_FRAMES = 60

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A part's circumstances: sequences, positions attention reads, frames a codec chunk."""

    model: SpeechModel
    batch: int
    length: int = 256
    frames: int = 1

    @property
    def like(self) -> Tensor:
        return self.model.talker.head.weight

    @property
    def slots(self) -> Tensor:
        return torch.arange(self.batch, device=self.like.device)


DecodeVariant = Callable[[Case], Call]


# --- parts -------------------------------------------------------------------------------------------------------


def talker_step(case: Case) -> Call:
    """One position for the batch, in the middle of what attention reads."""
    talker = case.model.talker
    cache = talker.allocate(case.batch, case.length)
    inputs = torch.randn(case.batch, case.like.shape[1], device=case.like.device).to(case.like)
    rows = BatchRows(case.slots, torch.full_like(case.slots, case.length // 2), case.length)
    return lambda: talker.step(inputs, cache, rows)


def predictor_frame(case: Case) -> Call:
    """Groups 1 to 15 of one frame, drawn as the engine draws them."""
    model, slots, state = case.model, case.slots, _state(case)
    sampler, cache = state.sampler, state.predictor
    hidden = torch.randn(case.batch, case.like.shape[1], device=case.like.device).to(case.like)
    first = torch.zeros_like(slots)

    def call() -> Tensor:
        noise = sampler.predictor_noise(slots)
        return model.code_predictor.frame(
            hidden, first, cache, lambda logits, group: sampler.predictor(logits, slots, noise[:, group - 1])
        )

    return call


def codec_step(case: Case) -> Call:
    """One chunk of the batch's streams."""
    decoder, slots = case.model.decoder, case.slots
    state = decoder.allocate(case.batch)
    codes = torch.randint(0, CODEBOOK_SIZE, (case.batch, CODE_GROUPS, case.frames), device=case.like.device)
    return lambda: decoder.step(codes, slots, state)


def fused_talker_step(case: Case) -> Call:
    """The same in our kernels."""
    from ..acceleration.fused import FusedDecodeStep

    frame = FusedDecodeStep(case.model, _state(case))
    batch = frame.batch(case.slots, torch.zeros_like(case.slots), case.slots >= 0)
    return lambda: frame.talker(batch)


def fused_predictor_frame(case: Case) -> Call:
    """The same in our kernels."""
    from ..acceleration.fused import FusedDecodeStep

    frame = FusedDecodeStep(case.model, _state(case))
    batch = frame.batch(case.slots, torch.zeros_like(case.slots), case.slots >= 0)
    codes = torch.zeros(case.batch, case.model.config.talker.code_groups, dtype=torch.int64, device=case.like.device)
    width = case.model.code_predictor.heads.shape[2]
    inputs = torch.randn(2 * case.batch, width, device=case.like.device).to(case.like)
    return lambda: frame.later_codes(inputs.clone(), codes, batch)  # a pass changes its inputs


def fused_codec_step(case: Case) -> Call:
    """The same in our kernels, in float16."""
    from ..kernels.codec import FusedCodec

    slots, codec = case.slots, FusedCodec(case.model.decoder, case.batch, torch.float16, case.like.device)
    codes = torch.randint(0, CODEBOOK_SIZE, (case.batch + 1, RING_FRAMES, CODE_GROUPS), device=case.like.device)
    starts = torch.zeros_like(slots)
    return lambda: codec.step(codes, starts, slots, case.frames)


def _state(case: Case) -> SlotState:
    """Slots that draw, each in the middle of what attention reads."""
    state = SlotState.allocate(case.model, case.batch, case.length)
    state.next.fill_(case.length // 2)
    for slot in range(case.batch):
        state.sampler.join(slot, SamplingParams(), slot)
    return state


# --- ways --------------------------------------------------------------------------------------------------------


def graph(way: DecodeVariant) -> DecodeVariant:
    """The same, captured once as a CUDA graph."""

    def prepare(case: Case) -> Call:
        call = way(case)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            call()
        return captured.replay

    return prepare


def inductor(way: DecodeVariant) -> DecodeVariant:
    """The same, compiled by Inductor; its graphs are left to `graph`."""
    return lambda case: torch.compile(way(case), dynamic=False)


TALKERS: Mapping[str, DecodeVariant] = {
    "eager": talker_step,
    "graph": graph(talker_step),
    "inductor": graph(inductor(talker_step)),
    "fused": graph(fused_talker_step),
}
PREDICTORS: Mapping[str, DecodeVariant] = {
    "eager": predictor_frame,
    "graph": graph(predictor_frame),
    "inductor": graph(inductor(predictor_frame)),
    "fused": graph(fused_predictor_frame),
}
CODECS: Mapping[str, DecodeVariant] = {
    "eager": codec_step,
    "graph": graph(codec_step),
    "fused": graph(fused_codec_step),
}


# --- reports -----------------------------------------------------------------------------------------------------


def main() -> None:
    options = _options()
    speaker = BenchSpeaker(options.directory, max(options.batch), options)
    options.ways = options.ways or (["eager", "graph", "fused"] if speaker.device.type == "cuda" else ["eager"])
    command, line = command_line("engine.bench.profile_talker", sys.argv[1:]), json_line if options.json else text_line
    with torch.no_grad():
        for batch in options.batch:
            for case, figures in measure(speaker.model, batch, options):
                print(line(speaker.setting(command, batch, case.frames), figures), flush=True)
    if options.trace:
        print(trace(speaker, options.trace, options.chunks))


def measure(model: SpeechModel, batch: int, options: argparse.Namespace) -> Iterator[tuple[Case, dict[str, Figure]]]:
    """Every part in every way for one batch size."""
    passes = model.config.talker.code_groups - 1
    whole = Case(model, batch, options.length)
    yield from ((whole, {"part": "talker", **each}) for each in _timed(TALKERS, whole, options, 1))
    yield from ((whole, {"part": "code predictor", **each}) for each in _timed(PREDICTORS, whole, options, passes))
    for frames in options.chunk_frames:
        chunk = Case(model, batch, options.length, frames)
        yield from ((chunk, {"part": "codec", **each}) for each in _timed(CODECS, chunk, options, 1))


def _timed(
    ways: Mapping[str, DecodeVariant], case: Case, options: argparse.Namespace, steps: int
) -> Iterator[dict[str, Figure]]:
    for name in options.ways:
        if name in ways:
            took_ms = seconds(ways[name](case), case.like.device, options.repeats) * 1000
            yield {"way": name, "ms": took_ms, "ms_per_frame": took_ms / case.frames, "ms_per_step": took_ms / steps}


def trace(speaker: BenchSpeaker, file: Path, wanted: int) -> str:
    """Write a trace of one listener's first `wanted` chunks; return a table of what took the most time."""
    speaker.warm_up(1)
    on_gpu = speaker.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    job, chunks = speaker.begin(BenchRequest(TEXT, TRACED_FRAMES, 0)), 0
    with profile(activities=activities) as profiler:
        while chunks < wanted and speaker.engine.busy:
            chunks += len(speaker.engine.step())
    speaker.engine.cancel(job)
    profiler.export_chrome_trace(str(file))
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    return str(profiler.key_averages().table(sort_by=order, row_limit=TOP, max_name_column_width=80))


def _options() -> argparse.Namespace:
    known = list(dict.fromkeys((*TALKERS, *PREDICTORS, *CODECS)))
    parser = engine_parser(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--length", type=int, default=256, help="positions that attention reads")
    parser.add_argument("--chunk-frames", type=int, nargs="+", default=[1, 8], help="frames a codec chunk")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="trace the whole engine into FILE")
    parser.add_argument("--chunks", type=int, default=5, help="of a listener, to trace")
    parser.add_argument("--repeats", type=int, default=50, help="of each measured call")
    parser.add_argument(
        "--ways", nargs="+", choices=known, help="default: eager, on a GPU graph and fused too; inductor takes minutes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
