"""The code predictor alone: code groups 1 to 15 of a frame, sampled in one loop that can be captured as a CUDA graph.

The engine's decode step contains this loop. Here callers pass embeddings, under the streaming fork's names.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.code_predictor import CodePredictor, CodePredictorCache
from ..prompt.sampling_params import Draw, SamplingParams
from ..runtime.cuda_graphs import PredictorGraphs
from ..runtime.sampler import Noise, fields_of, pick, rows_of

BATCH_SIZES = (1, 2, 4, 8)


class FastCodebook:
    """Samples frames from embeddings. Thread-safe. The draws of a row depend on its seed only, captured or not."""

    def __init__(self, predictor: CodePredictor) -> None:
        config, self._like = predictor.config, predictor.heads
        self._predictor, self._later = predictor, config.code_groups - 1
        self.width = predictor.codes.weight.shape[1]
        self._noise = Noise(range(1, config.code_groups), config.vocab_size, self._like.device)
        self._cache, self._room = predictor.allocate(1), 1  # rows
        self._graphs: PredictorGraphs | None = None
        self._captured_cache: CodePredictorCache | None = None  # the graphs use it without holding a reference
        self._lock = threading.Lock()

    @torch.inference_mode()
    def generate_fast(
        self,
        inputs_embeds: Tensor,
        num_codebooks: int,
        do_sample: bool = True,
        temperature: float = 1.0,
        top_k: int = 50,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> Tensor:
        """Sample codes from the talker's state and the embedding of group 0: [B, 2, H] → int64 [B, num_codebooks].

        num_codebooks: 1 to 15 groups. Row n is drawn with `seed` + n; without a seed, with one from torch's generator.
        Raises SamplingError; ValueError for another shape.
        """
        rows = len(inputs_embeds)
        if inputs_embeds.shape[1:] != (2, self.width) or not rows:
            raise ValueError(f"inputs_embeds must be [B, 2, {self.width}], not {list(inputs_embeds.shape)}")
        if not 1 <= num_codebooks <= self._later:
            raise ValueError(f"num_codebooks must be between 1 and {self._later}, not {num_codebooks}")
        draw = Draw(do_sample, temperature, top_k, top_p)
        SamplingParams(talker=draw, seed=seed)  # checks them
        first = int(torch.randint(1 << 62, ())) if seed is None else seed
        seeds = torch.tensor([(first + row) % (1 << 63) for row in range(rows)])
        draws = torch.tensor([fields_of(draw)] * rows, dtype=torch.float32)
        given = (inputs_embeds.to(self._like), draws.to(self._like.device), seeds.to(self._like.device))
        with self._lock:
            return self._codes(*given)[:rows, :num_codebooks].clone()

    def capture_codebook_cuda_graph(self, warmup_runs: int = 3, batch_sizes: Sequence[int] = BATCH_SIZES) -> None:
        """Capture `generate_fast` as CUDA graphs for these batch sizes; other sizes are padded to the next one.

        Larger batches run eagerly. Sampling parameters are inputs of the graphs. Raises ValueError without a GPU.
        """
        if warmup_runs < 1 or not batch_sizes or min(batch_sizes) < 1:
            raise ValueError(f"warmup_runs and batch_sizes must be at least 1, not {warmup_runs}, {batch_sizes}")
        if self._like.device.type != "cuda":
            raise ValueError(f"a CUDA graph needs an NVIDIA GPU; this model is on the {self._like.device.type}")
        with torch.cuda.device(self._like.device):
            self.capture_into(PredictorGraphs(self._like.device), warmup_runs, batch_sizes)

    @torch.inference_mode()
    def capture_into(self, graphs: PredictorGraphs, warmup_runs: int, batch_sizes: Sequence[int]) -> None:
        """Capture a graph for each batch size, the smallest first."""
        cache = self._predictor.allocate(max(batch_sizes))
        device = self._like.device
        for rows in sorted(batch_sizes):
            embeds = torch.zeros(rows, 2, self.width, dtype=self._like.dtype, device=device)
            draws = torch.tensor([fields_of(Draw())] * rows, dtype=torch.float32, device=device)
            seeds = torch.zeros(rows, dtype=torch.int64, device=device)

            def run(embeds: Tensor, draws: Tensor, seeds: Tensor) -> Tensor:
                return self._loop(embeds, draws, seeds, cache)

            graphs.capture((rows, 0), (embeds, draws, seeds), run, warmup_runs)
        self._graphs, self._captured_cache = graphs, cache

    def _codes(self, embeds: Tensor, draws: Tensor, seeds: Tensor) -> Tensor:
        rows = len(embeds)
        graph = self._graphs.find(rows) if self._graphs else None
        if graph is None:
            if self._room < rows:
                self._cache, self._room = self._predictor.allocate(rows), rows
            return self._loop(embeds, draws, seeds, self._cache)
        size = len(graph.inputs[0])
        return graph(*(_padded(each, size) for each in (embeds, draws, seeds)))

    def _loop(self, embeds: Tensor, draws: Tensor, seeds: Tensor, cache: CodePredictorCache) -> Tensor:
        noise, rows = self._noise.draw(seeds, torch.zeros_like(seeds)), rows_of(draws)

        def choose(scores: Tensor, group: int) -> Tensor:
            return pick(scores, noise[:, group - 1], rows)

        return self._predictor.later(embeds, cache, choose)


def _padded(values: Tensor, size: int) -> Tensor:
    """Pad to `size` rows with copies of the first: any row that can be sampled from will do."""
    return torch.cat((values, values[:1].expand(size - len(values), *values.shape[1:])))
