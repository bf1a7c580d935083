"""Full-size networks with random weights on a GPU: how far bfloat16 is from float32, memory, load time, CUDA graphs.

    python -m pytest tests/gpu/test_model_full.py -m gpu -s
prints every figure. The comparisons with the reference package run where `qwen_tts` can be imported.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.checkpoint.load import LoadOptions, load
from engine.model.speech_model import SpeechModel
from engine.model.talker import BatchRows
from engine.testing.tiny_checkpoint import build_full
from tests.engine.support.random_inputs import codes as random_codes
from tests.parity.reference import import_reference, load_reference

pytestmark = [
    pytest.mark.usefixtures("exact_float32"),
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
DEVICE = "cuda"
FRAMES = 256
BATCH = 4
FLOAT32 = LoadOptions(device=DEVICE, dtype=torch.float32)
BFLOAT16 = LoadOptions(device=DEVICE, dtype=torch.bfloat16)


@pytest.fixture(scope="module", params=["1b7", "0b6"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_full(tmp_path_factory.mktemp(request.param), request.param)


# --- teacher forcing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forced:
    """Scores of two networks for one given history, all float32."""

    talker: Tensor  # [BATCH · FRAMES, 3072]
    predictor: Tensor  # [BATCH · FRAMES · 15, 2048]


def history(model: SpeechModel) -> tuple[Tensor, Tensor]:
    """Given codes [BATCH, FRAMES, 16] and the talker inputs [BATCH, FRAMES, H] that they and some text make."""
    codes = torch.from_numpy(random_codes(BATCH, FRAMES)).transpose(1, 2).to(DEVICE)
    ids = torch.arange(FRAMES, device=DEVICE) * 37 % model.config.talker.text_vocab_size
    return codes, model.talker.codes(codes) + model.talker.text(ids)


def ours(model: SpeechModel, codes: Tensor, inputs: Tensor) -> Forced:
    """Scores of our networks."""
    talker, predictor = model.talker, model.code_predictor
    slots, starts = torch.arange(BATCH, device=DEVICE), torch.zeros(BATCH, dtype=torch.int64, device=DEVICE)
    dtype = talker.head.weight.dtype
    hidden = talker(inputs.to(dtype), talker.allocate(BATCH, FRAMES), BatchRows(slots, starts, FRAMES))
    given, passes = codes.flatten(0, 1), []  # [BATCH · FRAMES, 16]

    def forced(logits: Tensor, group: int) -> Tensor:
        passes.append(logits)
        return given[:, group]

    predictor.frame(inputs.flatten(0, 1).to(dtype), given[:, 0], predictor.allocate(len(given)), forced)
    return Forced(talker.head(hidden).flatten(0, 1).float(), torch.stack(passes, 1).flatten(0, 1).float())


def theirs(model: Any, codes: Tensor, inputs: Tensor) -> Forced:
    """Scores of the reference's networks for the same history."""
    talker, predictor = model.model.talker, model.model.talker.code_predictor
    inputs = inputs.to(talker.codec_head.weight.dtype)
    mask = torch.ones(inputs.shape[:2], dtype=torch.int64, device=inputs.device)
    logits = talker(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits
    tables = [talker.get_input_embeddings(), *predictor.get_input_embeddings()[:14]]
    parts = [table(codes[..., group].flatten()) for group, table in enumerate(tables)]
    x = predictor.small_to_mtp_projection(torch.stack([inputs.flatten(0, 1), *parts], dim=1))
    hidden = predictor.model(inputs_embeds=x, use_cache=False).last_hidden_state
    passes = [head(hidden[:, group + 1]) for group, head in enumerate(predictor.lm_head)]
    return Forced(logits.flatten(0, 1).float(), torch.stack(passes, 1).flatten(0, 1).float())


@dataclass(frozen=True)
class Nearness:
    """How near two sets of scores are."""

    cosine: float
    lowest: float
    top1: float
    decided_top1: float
    """Among rows whose two best scores differ by more than 5 % of the scores' spread; random weights tie often."""
    decided: float

    @classmethod
    def of(cls, scores: Tensor, exact: Tensor) -> Nearness:
        same = scores.argmax(-1) == exact.argmax(-1)
        best = exact.topk(2, dim=-1).values
        decided = best[:, 0] - best[:, 1] > 0.05 * exact.std()
        cosine = F.cosine_similarity(scores, exact, dim=-1)
        shares = (share.float().mean().item() for share in (same, same[decided], decided))
        return cls(cosine.mean().item(), cosine.min().item(), *shares)

    def __str__(self) -> str:
        top1 = f"top-1 {self.top1:.4f}, {self.decided_top1:.4f} of the {self.decided:.2f} that do not tie"
        return f"cosine {self.cosine:.5f}, lowest {self.lowest:.5f}, {top1}"


def report(what: str, scores: Forced, exact: Forced) -> dict[str, Nearness]:
    """Compare and print both networks."""
    near = {part: Nearness.of(getattr(scores, part), getattr(exact, part)) for part in ("talker", "predictor")}
    for part, value in near.items():
        print(f"{what}, {part}: {value}")
    return near


@torch.inference_mode()
def test_bfloat16_logits_are_close_to_float32(directory: Path) -> None:
    print(f"\n{directory.name} on {torch.cuda.get_device_name()}, torch {torch.__version__}")
    half = load(directory, BFLOAT16)
    codes, inputs = history(half)
    scores = ours(half, codes, inputs)
    del half
    exact = ours(load(directory, FLOAT32), codes, inputs)
    near = report("ours bfloat16 against ours float32", scores, exact)
    for part in near.values():
        assert part.cosine > 0.999
        assert part.decided_top1 > 0.98
    try:
        import_reference()
    except ImportError as reason:
        pytest.skip(f"no comparison with the reference ({reason})")
    compare_with_reference(directory, codes, inputs, scores, exact)


def compare_with_reference(directory: Path, codes: Tensor, inputs: Tensor, scores: Forced, exact: Forced) -> None:
    """Against the reference in float32, and bfloat16 no worse than the reference's own."""
    yardstick = theirs(load_reference(directory, device_map=DEVICE), codes, inputs)
    gc.collect()
    own = report("ours float32 against reference float32", exact, yardstick)
    near = report("ours bfloat16 against reference float32", scores, yardstick)
    half = theirs(load_reference(directory, device_map=DEVICE, dtype=torch.bfloat16), codes, inputs)
    report("reference bfloat16 against reference float32", half, yardstick)
    report("ours bfloat16 against reference bfloat16", scores, half)
    for part in ("talker", "predictor"):
        difference = (getattr(exact, part) - getattr(yardstick, part)).abs().max() / getattr(
            yardstick, part
        ).abs().max()
        print(f"ours float32 against reference float32, {part}: largest relative difference {difference:.1e}")
        assert difference < 1e-4
        assert own[part].cosine > 0.99999
        assert near[part].cosine > 0.999
        assert near[part].decided_top1 > 0.98


# --- codec --------------------------------------------------------------------------------------------------------


def noise_ratio(wave: Tensor, exact: Tensor) -> float:
    """Signal to noise in dB."""
    return (10 * torch.log10(exact.square().mean() / (wave.float() - exact).square().mean())).item()


@torch.inference_mode()
def test_codec_in_float16_and_tf32_is_close_to_float32(directory: Path) -> None:
    codes = torch.from_numpy(random_codes(2, 100)).to(DEVICE)
    exact = load(directory, FLOAT32).decoder.decode(codes)
    ratios = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        options = LoadOptions(device=DEVICE, dtype=torch.bfloat16, codec_dtype=dtype, encoders=False)
        ratios[name] = noise_ratio(load(directory, options).decoder.decode(codes), exact)
    rounded = load(directory, FLOAT32).decoder
    for parameter in rounded.parameters():
        parameter.copy_(parameter.bfloat16())
    ratios["bfloat16 weights, float32 sums"] = noise_ratio(rounded.decode(codes), exact)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    ratios["TF32"] = noise_ratio(load(directory, FLOAT32).decoder.decode(codes), exact)
    for name, ratio in ratios.items():
        print(f"{directory.name} codec {name}: {ratio:.1f} dB against float32")
    # Pure bfloat16 cannot reach 40 dB: 8 bits of mantissa through some 60 layers. Half precision that can is float16.
    assert ratios["float16"] > 40
    assert ratios["TF32"] > 40


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 4, 8, 25])
def test_codec_steps_equal_whole(directory: Path, frames: int) -> None:
    decoder = load(directory, FLOAT32).decoder
    codes = torch.from_numpy(random_codes(2, 200)).to(DEVICE)
    state, slots = decoder.allocate(3), torch.tensor([2, 0], device=DEVICE)
    pieces = [decoder.step(piece, slots, state) for piece in codes.split(frames, dim=-1)]
    difference = (torch.cat(pieces, -1) - decoder.decode(codes)).abs().max().item()
    print(f"{directory.name} codec in steps of {frames}: largest difference {difference:.1e}")
    assert difference < 1e-4


# --- graphs -------------------------------------------------------------------------------------------------------


def captured(run: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of `run` and the tensor that it fills on replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


class FrameLoop:
    """Talker step, greedy choice, 15 predictor passes, next input: all of a frame that one graph must contain."""

    def __init__(self, model: SpeechModel, rows: int) -> None:
        self.model, self.rows = model, rows
        self.cache, self.frame_cache = model.talker.allocate(rows, 256), model.code_predictor.allocate(rows)
        self.slots = torch.arange(rows, device=DEVICE).flip(0)
        self.positions = torch.zeros(rows, dtype=torch.int64, device=DEVICE)
        self.inputs = model.talker.codes(torch.from_numpy(random_codes(1, rows))[0].T.to(DEVICE))
        self.first = self.inputs.clone()

    def restart(self) -> None:
        self.positions.zero_()
        self.inputs.copy_(self.first)

    def __call__(self) -> Tensor:
        rows = BatchRows(self.slots, self.positions, 256)
        hidden, logits = self.model.talker.step(self.inputs, self.cache, rows)
        code0 = logits[:, :2048].argmax(-1)
        codes = self.model.code_predictor.frame(hidden, code0, self.frame_cache, lambda scores, _: scores.argmax(-1))
        self.inputs.copy_(self.model.talker.codes(codes))
        self.positions.add_(1)
        return codes


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 8])
def test_whole_frame_is_captured_as_one_graph(directory: Path, rows: int) -> None:
    loop = FrameLoop(load(directory, BFLOAT16), rows)
    expected = [loop() for _ in range(20)]
    graph, codes = captured(loop)
    loop.restart()
    for frame in expected:
        graph.replay()
        assert torch.equal(codes, frame)
    loop.restart()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(100):
        graph.replay()
    torch.cuda.synchronize()
    print(
        f"{directory.name}, batch {rows}: {(time.perf_counter() - started) * 10:.2f} ms a frame in one graph, no codec"
    )


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 8])
def test_codec_step_is_captured_as_one_graph(directory: Path, frames: int, rows: int) -> None:
    decoder = load(directory, FLOAT32).decoder
    codes = torch.from_numpy(random_codes(rows, 40 * frames)).to(DEVICE)
    state, slots = decoder.allocate(rows + 1), torch.arange(rows, device=DEVICE)
    given = codes[..., :frames].clone()
    graph, wave = captured(lambda: decoder.step(given, slots, state))
    state.reset(slots)
    pieces = []
    for piece in codes.split(frames, dim=-1):
        given.copy_(piece)
        graph.replay()
        pieces.append(wave.clone())
    fresh = decoder.allocate(rows + 1)
    expected = [decoder.step(piece, slots, fresh) for piece in codes.split(frames, dim=-1)]
    assert (torch.cat(pieces, -1) - torch.cat(expected, -1)).abs().max() < 1e-4
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(50):
        graph.replay()
    torch.cuda.synchronize()
    spent = (time.perf_counter() - started) * 20
    print(f"codec float32, batch {rows}, {frames} frames: {spent:.2f} ms a step in one graph")


# --- memory and load time -------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("table", [None, "cpu"])
def test_load_peak_memory_is_close_to_the_size_of_the_model(directory: Path, table: str | None) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, started = torch.cuda.memory_allocated(), time.perf_counter()
    options = LoadOptions(device=DEVICE, dtype=torch.bfloat16, text_table_device=table)
    model = load(directory, options)
    torch.cuda.synchronize()
    spent = time.perf_counter() - started
    held = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    memory = f"{held / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB"
    print(f"{directory.name}, text table on {table or DEVICE}: {spent:.2f} s, {memory}")
    assert peak < 1.1 * held
    ids = torch.tensor([3, 5], device=DEVICE)
    assert model.talker.text(ids).device.type == DEVICE
    assert model.talker.text.table.device.type == (table or DEVICE)


def test_reference_load_time_and_memory_are_reported(directory: Path) -> None:
    """For the report beside ours: the same checkpoint, bfloat16."""
    try:
        import_reference()
    except ImportError as reason:
        pytest.skip(f"the reference is not installed ({reason})")
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, started = torch.cuda.memory_allocated(), time.perf_counter()
    model = load_reference(directory, device_map=DEVICE, dtype=torch.bfloat16)
    torch.cuda.synchronize()
    spent, peak = time.perf_counter() - started, torch.cuda.max_memory_allocated() - before
    held = torch.cuda.memory_allocated() - before
    print(f"{directory.name}, the reference: {spent:.2f} s, {held / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB")
    assert model is not None
