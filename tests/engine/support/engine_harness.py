"""An engine over a tiny checkpoint, driven by hand."""

from __future__ import annotations

import json
from functools import cache

import torch

from engine.checkpoint.load import load
from engine.paged.kv_cache import PoolSize
from engine.paged.runner import PagedRunner
from engine.prompt.planner import PromptIds, PromptPlanner
from engine.prompt.sampling_params import resolve_sampling
from engine.prompt.tokenizer import TextTokenizer
from engine.runtime.model_runner import Runner
from engine.scheduler.chunking import Emission, EmissionPlan
from engine.scheduler.engine import ChunkOutput, Engine, GenerationRequest
from engine.scheduler.sequence import RunawayLimits
from tests.engine.support.tiny_models import FLOAT32, tiny_directory, tiny_model

SLOTS = 3
TEXTS = ["hello world, 你好 😀", "the washing machine has finished", "naïve 한국어 e\u0301 😀👍🏽"]
Spoken = tuple[torch.Tensor, torch.Tensor]


class Speaker:
    """The tiny custom-voice checkpoint, and the seeded utterances it can make. With `eos_gain` they end themselves.

    With `pool` the engine is the paged one.
    """

    def __init__(
        self,
        slots: int = SLOTS,
        max_positions: int = 256,
        guards: RunawayLimits | None = None,
        lag: int | None = None,
        eos_gain: float = 0.0,
        pool: PoolSize | None = None,
    ) -> None:
        directory = tiny_directory("custom_voice", eos_gain=eos_gain)
        self.tokenizer = TextTokenizer.from_directory(directory)
        ids = PromptIds.from_config(json.loads((directory / "config.json").read_text()))
        self.planner = PromptPlanner(ids, self.tokenizer.encode)
        model = load(directory, FLOAT32) if eos_gain else tiny_model("custom_voice")
        sizes = (model, slots, max_positions)
        self.runner = PagedRunner(*sizes, pool, lag) if pool else Runner(*sizes, lag=lag)
        self.engine = Engine(self.runner, self.tokenizer, guards or RunawayLimits())

    def utterance(
        self,
        speaker: str = "ryan",
        sizes: tuple[int, ...] = (1, 2),
        streaming: bool = True,
        emission: Emission | None = None,
        trim_silence: bool = False,
        **sampling: object,
    ) -> GenerationRequest:
        options = {"max_new_tokens": 14, "seed": 7, **sampling}
        plan = self.planner.custom_voice(speaker, "english", streaming=streaming)
        emission = emission or EmissionPlan(sizes)
        return GenerationRequest(plan, resolve_sampling(options), emission=emission, trim_silence=trim_silence)

    def start(self, job: int, text: str, **options: object) -> None:
        self.engine.add(job, self.utterance(**options))
        self.engine.append_text(job, text)
        self.engine.end_text(job)

    def rest(self) -> list[ChunkOutput]:
        """Return all remaining outputs."""
        parts = []
        while self.engine.busy:
            parts += self.engine.step()
        return parts

    def finish(self) -> dict[int, Spoken]:
        """Codes and wave of every job, stepped to the end."""
        found: dict[int, list[ChunkOutput]] = {}
        for progress in self.rest():
            found.setdefault(progress.job, []).append(progress)
        return {job: joined(parts) for job, parts in found.items()}


def joined(parts: list[ChunkOutput]) -> Spoken:
    return torch.cat([p.codes for p in parts], -1), torch.cat([p.wave for p in parts])


@cache
def alone(text: str, lag: int | None = None, **options: object) -> Spoken:
    """What an engine of its own makes of a text, once for all tests; never to be written to."""
    speaker = Speaker(lag=lag)
    speaker.start(1, text, **options)
    return speaker.finish()[1]


def same(ours: Spoken, theirs: Spoken) -> None:
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].shape == theirs[1].shape
    assert torch.allclose(ours[1], theirs[1], rtol=0, atol=1e-4)
