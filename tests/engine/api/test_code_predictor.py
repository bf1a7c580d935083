"""The code predictor by itself: the same codes as in the engine's frames, whatever the batch, captured or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.api.code_predictor import FastCodebook
from engine.prompt.sampling_params import SamplingError
from tests.engine.support.recorded_calls import RecordedPredictor
from tests.engine.support.tiny_models import tiny_model

SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "seed": 5}


@pytest.fixture(params=["1b7", "0b6"])
def codebook(request: pytest.FixtureRequest) -> FastCodebook:
    return FastCodebook(tiny_model("base", request.param).code_predictor)


def embeds(rows: int, size: str = "1b7", seed: int = 0) -> Tensor:
    width = tiny_model("base", size).code_predictor.codes.weight.shape[1]
    return torch.randn(rows, 2, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", ["1b7", "0b6"])
@torch.inference_mode()
def test_generate_fast_greedy_codes_equal_those_of_a_frame(size: str) -> None:
    model = tiny_model("base", size)
    predictor, hidden, code0 = model.code_predictor, embeds(3, size)[:, 0], torch.tensor([7, 2000, 31])
    frame = predictor.frame(hidden, code0, predictor.allocate(3), lambda scores, group: scores.argmax(-1))
    inputs = torch.stack((hidden, model.talker.codes.group0(code0)), dim=1)
    assert torch.equal(FastCodebook(predictor).generate_fast(inputs, 15, do_sample=False), frame[:, 1:])
    assert torch.equal(FastCodebook(predictor).generate_fast(inputs, 4, do_sample=False), frame[:, 1:5])


def test_generate_fast_rows_are_independent(codebook: FastCodebook) -> None:
    inputs = embeds(5)
    together = codebook.generate_fast(inputs, 15, **SAMPLED)
    assert together.shape == (5, 15)
    for row in range(5):
        alone = codebook.generate_fast(inputs[row : row + 1], 15, **SAMPLED | {"seed": 5 + row})
        assert torch.equal(together[row : row + 1], alone)


def test_captured_graph_honours_every_parameter_and_batch_size(codebook: FastCodebook) -> None:
    """The streaming fork's graph has temperature 1.0 and top-k 50 built in, and breaks for more than one row."""
    graphs, plain = RecordedPredictor(), FastCodebook(codebook._predictor)
    codebook.capture_into(graphs, 1, (4, 1, 2))  # type: ignore[arg-type]
    ways = [SAMPLED, {"do_sample": False}, {"top_k": 1, "seed": 1}, {"temperature": 2.0, "top_k": 0, "seed": 9},
            {"temperature": 0.3, "top_p": 0.5, "seed": 9}]  # fmt: skip
    found = []
    for rows in (1, 2, 3, 4, 6):
        for way in ways:
            codes = codebook.generate_fast(embeds(rows), 15, **way)
            assert torch.equal(codes, plain.generate_fast(embeds(rows), 15, **way)), (rows, way)
            found.append(codes[0].tolist())
    assert len({str(codes) for codes in found[:5]}) >= 4  # the parameters matter
    assert found[1] == found[2]  # greedy and top-k 1
    assert [rows for rows, _ in graphs.replays] == [1] * 5 + [2] * 5 + [4] * 10  # six rows run as before


def test_generate_fast_without_seed_uses_torch_generator(codebook: FastCodebook) -> None:
    torch.manual_seed(3)
    one, two = (codebook.generate_fast(embeds(1), 15) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(codebook.generate_fast(embeds(1), 15), one)
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"temperature": 0.0}, SamplingError, "temperature"),
        ({"top_k": -1}, SamplingError, "top_k"),
        ({"top_p": 1.5}, SamplingError, "top_p"),
        ({"num_codebooks": 16}, ValueError, "between 1 and 15"),
        ({"inputs_embeds": torch.zeros(1, 3, 64)}, ValueError, r"\[B, 2, 64\]"),
        ({"inputs_embeds": torch.zeros(0, 2, 64)}, ValueError, r"\[B, 2, 64\]"),
    ],
)
def test_generate_fast_rejects_invalid_arguments(given: dict[str, Any], error: type[Exception], words: str) -> None:
    codebook = FastCodebook(tiny_model().code_predictor)
    with pytest.raises(error, match=words):
        codebook.generate_fast(**{"inputs_embeds": embeds(1), "num_codebooks": 15} | given)


def test_capture_rejects_cpu_with_reason(codebook: FastCodebook) -> None:
    with pytest.raises(ValueError, match="needs an NVIDIA GPU; this model is on the cpu"):
        codebook.capture_codebook_cuda_graph()
    with pytest.raises(ValueError, match="at least 1"):
        codebook.capture_codebook_cuda_graph(warmup_runs=0)
