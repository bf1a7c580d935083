"""What a checkpoint takes of a GPU, and what fits beside it."""

import pytest
import torch

from engine.checkpoint.load import read_config
from engine.checkpoint.memory_footprint import NumberBytes, footprint
from engine.checkpoint.memory_plan import POSITIONS, MemoryPlan, MemoryShortage, fit, needed, plan
from engine.model.speech_model import SpeechModel
from engine.testing.tiny_checkpoint import full_config
from tests.engine.support.tiny_models import tiny_directory

HALF = NumberBytes(2, 4)
GIB = 1 << 30
CONTEXT_BYTES = 700 << 20
"""What the driver, the CUDA context and a desktop keep of a card."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    def full(size, kind="custom_voice"):
        return full_config(tmp_path_factory.mktemp(size), size, kind)

    return full


def parameters(model, *, encoders):
    named = dict(model.named_parameters())
    return {
        name: parameter.numel()
        for name, parameter in named.items()
        if (name.split(".")[0] in ("encoder", "speaker_encoder")) == encoders
    }


@pytest.mark.parametrize(("size", "kind"), [("1b7", "base"), ("0b6", "base"), ("1b7", "custom_voice")])
def test_footprint_counts_the_weights_of_the_model(config, size, kind):
    checkpoint = config(size, kind)
    with torch.device("meta"):
        model = SpeechModel(checkpoint)
    sizes = footprint(checkpoint, NumberBytes(1, 1))
    folded = 1024 * model.talker.codes.weight.shape[0] if size == "1b7" else 0
    assert sizes.weights() - sizes.encoders == pytest.approx(
        sum(parameters(model, encoders=False).values()) + folded, rel=1e-3
    )
    assert sizes.encoders / 4 == pytest.approx(sum(parameters(model, encoders=True).values()), rel=5e-3)


def test_footprint_counts_slots_as_allocated(config):
    checkpoint = config("0b6")
    with torch.device("meta"):
        model = SpeechModel(checkpoint)
        cache, codec = model.talker.allocate(1, 1024), model.decoder.allocate(1)
    sizes = footprint(checkpoint, HALF)
    kept = sum(each.numel() for layer in cache.layers for each in (layer.keys, layer.values))
    assert sizes.position == 112 << 10 == 2 * kept // 1024
    streams = codec.conv.numel() + sum(each.numel() for layer in codec.layers for each in (layer.keys, layer.values))
    assert sizes.stream == pytest.approx(4 * streams, rel=0.02)


def test_footprint_matches_measured_sizes(config):
    measured = {"1b7": 4.63e9, "0b6": 2.53e9}
    for size, total in measured.items():
        assert footprint(config(size, "base"), HALF).weights() == pytest.approx(total, rel=0.03)


@pytest.mark.parametrize(
    ("gib", "size", "kind", "jobs"),
    [(6, "0b6", "custom_voice", 4), (6, "0b6", "base", 4), (8, "1b7", "custom_voice", 4), (8, "1b7", "base", 4)],
)
def test_plan_fits_models_on_consumer_gpus(config, gib, size, kind, jobs):
    found = plan(config(size, kind), HALF, gib * GIB - CONTEXT_BYTES, jobs)
    assert found.text_table_on_gpu
    assert found.positions >= 2048


def test_fit_returns_longest_slots_that_fit(config):
    sizes = footprint(config("1b7"), HALF)
    for positions, shorter in zip(POSITIONS, (*POSITIONS[1:], None), strict=True):
        budget_bytes = needed(sizes, 4, positions)
        assert (fit(sizes, budget_bytes, 4), fit(sizes, budget_bytes - 1, 4)) == (positions, shorter)


def test_plan_moves_text_table_to_host_memory_as_last_resort(config):
    checkpoint = config("1b7")
    sizes = footprint(checkpoint, HALF)
    free_bytes = sizes.weights() + needed(sizes, 2, 1024)
    assert plan(checkpoint, HALF, free_bytes, 2) == MemoryPlan(1024, True)
    assert plan(checkpoint, HALF, free_bytes - 1, 2) == MemoryPlan(2048, False)


def test_memory_shortage_names_settings_that_fit(config):
    with pytest.raises(
        MemoryShortage,
        match=r"^[\d.]+ GB of GPU memory are missing for engine.max_jobs 64; "
        r"what would fit: engine.max_jobs: \d+, or a 0.6B engine.model with engine.max_jobs: \d+; or close",
    ):
        plan(config("1b7"), HALF, 8 * GIB, 64)
    with pytest.raises(MemoryShortage, match=r"what would fit: a 0.6B engine.model; or close other programs"):
        plan(config("1b7"), HALF, 3 * GIB + GIB // 2, 1)
    with pytest.raises(MemoryShortage, match=r"max_jobs 1; close other programs that use the GPU$"):
        plan(config("0b6"), HALF, GIB, 1)
    with pytest.raises(MemoryShortage, match=r"max_jobs 1; close other programs that use the GPU$"):
        plan(config("1b7", "voice_design"), HALF, 3 * GIB, 1)


def test_settings_suggested_by_memory_shortage_fit(config):
    checkpoint, free_bytes = config("1b7"), 8 * GIB
    with pytest.raises(MemoryShortage) as short:
        plan(checkpoint, HALF, free_bytes, 64)
    jobs = int(str(short.value).split("engine.max_jobs: ")[1].split(",")[0])
    assert plan(checkpoint, HALF, free_bytes, jobs)
    with pytest.raises(MemoryShortage):
        plan(checkpoint, HALF, free_bytes, jobs + 1)


def test_footprint_of_tiny_checkpoint_is_small():
    sizes = footprint(read_config(tiny_directory("base")), NumberBytes(4, 4))
    assert sizes.weights() < 100 << 20
