"""The paged engine draws the codes of the slot engine, in any batch and after any history, and leaks nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.checkpoint.loaded import load_checkpoint
from engine.paged.kv_cache import PoolSize
from engine.paged.runner import PagedRunner
from engine.prompt.planner import CloneVoice, Reference, content_digest
from engine.prompt.sampling_params import SamplingParams, resolve_sampling
from engine.runtime.model_runner import Runner
from engine.runtime.prefill import PrefillRequest, VoiceVectors
from engine.scheduler.chunking import EmissionPlan
from engine.scheduler.engine import ChunkOutput, Engine, GenerationRequest
from tests.engine.support.engine_harness import TEXTS, Speaker, Spoken, alone, joined, same
from tests.engine.support.random_inputs import codes as random_codes
from tests.engine.support.tiny_models import FLOAT32, tiny_directory, tiny_model

LAGS = pytest.mark.parametrize("lag", [0, 1])
ROOMY = PoolSize(60, 16)
PREFIX = 9  # positions, of a preset voice in a language
POOLS = pytest.mark.parametrize("pool", [ROOMY, PoolSize(1, 256), PoolSize(200, 3)], ids=str)
MIDDLE = "the washing machine has finished, 한국어 é"
LONG = "one two three, 你好吗？四五六 and e\u0301 한국어 " * 4
JOBS: list[tuple[str, dict[str, Any]]] = [
    (TEXTS[0], {"speaker": "ryan"}),
    (LONG, {"speaker": "vivian", "streaming": False}),
    (TEXTS[1], {"speaker": "vivian", "seed": 3}),
    ("hi", {"speaker": "ryan", "max_new_tokens": 40, "do_sample": False, "subtalker_dosample": False}),
    (LONG, {"speaker": "vivian", "streaming": False, "seed": 4}),
    (LONG, {"speaker": "eric", "max_new_tokens": 30}),
]


@cache
def said_alone(job: int) -> Spoken:
    text, options = JOBS[job]
    return alone(text, 0, **options)


def books(engine_runner: Runner) -> tuple[int, int, int]:
    """Free and used blocks of a pool, and sequences in host memory."""
    assert isinstance(engine_runner, PagedRunner)
    pool = engine_runner.paging.pool
    return pool.available, pool.used, len(engine_runner._swapped)


@pytest.mark.parametrize(
    ("lag", "pool"), [(0, ROOMY), (1, ROOMY), (1, PoolSize(1, 256)), (0, PoolSize(200, 3))], ids=str
)
def test_paged_cache_has_same_codes_as_slots(lag: int, pool: PoolSize) -> None:
    speaker = Speaker(lag=lag, pool=pool)
    for job, (text, options) in enumerate(JOBS):
        speaker.start(job, text, **options)
    for job, spoken in speaker.finish().items():
        same(spoken, said_alone(job))
    assert books(speaker.runner) == (pool.blocks, 0, 0)


def displaced_in(speaker: Speaker) -> tuple[dict[int, Spoken], set[int]]:
    """Return the audio of all jobs and the slots whose contents were in host memory at some time."""
    away: set[int] = set()
    parts: dict[int, list[ChunkOutput]] = {}
    while speaker.engine.busy:
        for progress in speaker.engine.step():
            parts.setdefault(progress.job, []).append(progress)
        away |= {slot for slot in range(speaker.runner.slots) if speaker.runner.paging.swapped_out(slot)}
    return {job: joined(made) for job, made in parts.items()}, away


@LAGS
def test_preempted_sequence_resumes_unchanged_from_host_memory(lag: int) -> None:
    pool = PoolSize(10, 4)
    speaker = Speaker(slots=3, max_positions=40, lag=lag, pool=pool)
    for job in range(3):
        speaker.start(job, TEXTS[job], max_new_tokens=24, seed=job)
    said, away = displaced_in(speaker)
    assert away == {1, 2}
    for job in range(3):
        same(said[job], alone(TEXTS[job], 0, max_new_tokens=24, seed=job))
    assert books(speaker.runner) == (10, 0, 0)


def test_paused_job_is_preempted_and_resumes() -> None:
    speaker = Speaker(slots=2, max_positions=64, pool=PoolSize(16, 4))
    speaker.start(0, TEXTS[0], max_new_tokens=40)
    first = [progress for _ in range(30) for progress in speaker.engine.step()]
    speaker.engine.hold(0, True)
    speaker.start(1, TEXTS[1], max_new_tokens=40)
    same(speaker.finish()[1], alone(TEXTS[1], 0, max_new_tokens=40))
    assert books(speaker.runner) == (16, 0, 1)
    assert not speaker.engine.busy
    speaker.engine.hold(0, False)
    same(joined(first + speaker.rest()), alone(TEXTS[0], 0, max_new_tokens=40))
    assert books(speaker.runner) == (16, 0, 0)


def test_job_waits_for_free_blocks() -> None:
    speaker = Speaker(slots=3, max_positions=64, pool=PoolSize(16, 4))
    for job in range(2):
        speaker.start(job, MIDDLE, streaming=False, max_new_tokens=8, seed=job)
    speaker.engine.step()
    assert [job.slot is not None for job in speaker.engine._jobs.values()] == [True, False]
    assert len(speaker.runner.paging.blocks(0)) > 16 // 2 - 1
    said = speaker.finish()
    same(said[1], alone(MIDDLE, 0, streaming=False, max_new_tokens=8, seed=1))


def test_cancel_frees_host_memory() -> None:
    speaker = Speaker(slots=2, max_positions=64, pool=PoolSize(16, 4))
    for job in range(2):
        speaker.start(job, TEXTS[job], max_new_tokens=50)
    while not books(speaker.runner)[2]:
        speaker.engine.step()
    speaker.engine.cancel(1)
    assert books(speaker.runner)[2] == 0
    same(joined_tail(speaker.finish()[0]), joined_tail(alone(TEXTS[0], 0, max_new_tokens=50)))
    assert books(speaker.runner) == (16, 0, 0)


def joined_tail(spoken: Spoken, frames: int = 4) -> Spoken:
    return spoken[0][:, -frames:], spoken[1][-1920 * frames :]


# --- what is shared -----------------------------------------------------------------------------------------------


def enter(runner: Runner, speaker: Speaker, slot: int, name: str = "ryan", text: tuple[int, ...] = (5,) * 30) -> int:
    """Prefill a prompt into a slot and return how many positions were computed."""
    prompt = speaker.planner.custom_voice(name, "english", streaming=False).begin(text, True)
    runner.prefill([PrefillRequest(slot, prompt, VoiceVectors(), SamplingParams(), 1)])
    return len(prompt.head) - 1


def contents(runner: PagedRunner, slot: int, positions: int) -> torch.Tensor:
    """[layers, 2, kv_heads, positions, head_dim] of a slot."""
    pool = runner.cache.pool[:, :, list(runner.paging.blocks(slot))]
    return pool.transpose(2, 3).flatten(3, 4)[:, :, :, :positions]


@POOLS
@torch.inference_mode()
def test_warm_prefix_is_bitwise_equal_to_cold(pool: PoolSize) -> None:
    speaker, rows = Speaker(), Runner(tiny_model("custom_voice"), 1, 256)
    size = PoolSize(3 * 256 // pool.block_positions, pool.block_positions)
    runner = PagedRunner(tiny_model("custom_voice"), 3, 256, size)
    read = enter(runner, speaker, 0)
    enter(runner, speaker, 1, "vivian")
    assert enter(runner, speaker, 2) == read == enter(rows, speaker, 0)
    assert torch.equal(contents(runner, 0, PREFIX), contents(runner, 2, PREFIX))
    assert torch.equal(contents(runner, 0, PREFIX), rows.state.cache.kv[:, :, 0, :, :PREFIX])
    assert not torch.equal(contents(runner, 0, PREFIX), contents(runner, 1, PREFIX))
    torch.testing.assert_close(contents(runner, 2, read), rows.state.cache.kv[:, :, 0, :, :read], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forgotten", [1, 2, 64])
@torch.inference_mode()
def test_evicted_prefix_blocks_are_prefilled_again(forgotten: int) -> None:
    """Its last position, which fills no block, is kept apart and may outlive them."""
    speaker, runner = Speaker(), PagedRunner(tiny_model("custom_voice"), 2, 256, PoolSize(64, 4))
    read = enter(runner, speaker, 0, text=(5,))
    exact = contents(runner, 0, read)
    runner.release(0)
    empty = runner.paging.pool.available - read // 4
    runner.paging.pool.free(runner.paging.pool.allocate(min(empty + forgotten, 64)))
    assert len(runner.prefixes) == 1
    enter(runner, speaker, 0, text=(5,))
    torch.testing.assert_close(contents(runner, 0, read), exact, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_prompts_share_equal_full_blocks_only() -> None:
    speaker, runner = Speaker(), PagedRunner(tiny_model("custom_voice"), 4, 256, ROOMY)
    read = enter(runner, speaker, 0)
    reads: list[int] = []
    runner.strategies = replace(
        runner.strategies,
        read_chunks=lambda chunks: (reads.extend(len(chunk.inputs) for chunk in chunks), runner.read_apart(chunks))[1],
    )
    enter(runner, speaker, 1)
    enter(runner, speaker, 2, text=(5,) * 29 + (6,))
    enter(runner, speaker, 3, "vivian")
    mine, twin, cousin, other = (runner.paging.blocks(slot) for slot in range(4))
    full = read // 16
    assert full == 2
    assert (twin[:full], set(twin) & set(mine)) == (mine[:full], set(mine[:full]))
    assert cousin[:full] == mine[:full]
    assert not set(other) & set(mine)
    assert reads == [read - 32, read - 32, 9, read - 9]  # of the last prompt, the prefix alone


def clone_utterance(
    loaded: Any, seed: int, frames: int = 40, text: str = "the words of the recording " * 8
) -> GenerationRequest:
    """An utterance in the voice of a recording, whose every part follows from `seed`."""
    speaker = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    codes = torch.from_numpy(random_codes(1, frames, seed))[0].T.contiguous()
    digests = [content_digest(tensor.numpy().tobytes()) for tensor in (speaker, codes)]
    voice = CloneVoice(digests[0], Reference(text, frames, digests[1]))
    sampling = resolve_sampling({"max_new_tokens": 12, "seed": 5})
    plan = loaded.planner.clone(voice, "english", streaming=bool(seed % 2))
    return GenerationRequest(plan, sampling, VoiceVectors(speaker, codes), emission=EmissionPlan((4,)))


def speak(engine: Engine, jobs: list[tuple[GenerationRequest, str]]) -> dict[int, Spoken]:
    for job, (utterance, text) in enumerate(jobs):
        engine.add(job, utterance)
        engine.append_text(job, text)
        engine.end_text(job)
    parts: dict[int, list[ChunkOutput]] = {}
    while engine.busy:
        for progress in engine.step():
            parts.setdefault(progress.job, []).append(progress)
    return {job: joined(made) for job, made in parts.items()}


@LAGS
def test_cloned_voices_share_reference_blocks(lag: int) -> None:
    loaded = load_checkpoint(tiny_directory("base"), FLOAT32)
    jobs = [(clone_utterance(loaded, seed), text) for seed in (1, 2) for text in (TEXTS[1], TEXTS[0], TEXTS[1])]
    runner = PagedRunner(loaded.model, 6, 256, ROOMY, lag)
    most_used = []
    real = runner.advance
    runner.advance = lambda *given: (most_used.append(runner.paging.pool.used), real(*given))[1]  # type: ignore[method-assign]
    ours = speak(Engine(runner, loaded.tokenizer), jobs)
    theirs = speak(Engine(Runner(loaded.model, 6, 256, lag=lag), loaded.tokenizer), jobs)
    for job, spoken in theirs.items():
        same(ours[job], spoken)
    assert books(runner) == (ROOMY.blocks, 0, 0)
    alone_used = []
    for utterance, text in jobs:
        single = PagedRunner(loaded.model, 1, 256, ROOMY, lag)
        speak(Engine(single, loaded.tokenizer), [(utterance, text)])
        alone_used.append(single.paging.count(single._next[0]))
    assert max(most_used) < sum(alone_used) - 4


# --- memory that runs out -----------------------------------------------------------------------------------------


def fails_once(real: Callable[..., Any], after: int) -> Callable[..., Any]:
    left = [after]

    def call(*given: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise torch.cuda.OutOfMemoryError("no memory")
        return real(*given)

    return call


@pytest.mark.parametrize("after", [1, 2, 3])
def test_prefill_out_of_memory_is_retried_without_leaks(after: int) -> None:
    speaker = Speaker(pool=ROOMY)
    runner = speaker.runner
    runner.strategies = replace(runner.strategies, read_chunks=fails_once(runner.read_apart, after))
    for job in range(3):
        speaker.start(job, *[JOBS[job][0]], **JOBS[job][1])
    for job, spoken in speaker.finish().items():
        same(spoken, said_alone(job))
    assert books(speaker.runner) == (ROOMY.blocks, 0, 0)


def test_prompt_larger_than_memory_fails_alone() -> None:
    speaker = Speaker(pool=ROOMY)
    runner = speaker.runner

    def read(chunks: Any) -> None:
        if any(len(chunk.inputs) > 40 for chunk in chunks):
            raise torch.cuda.OutOfMemoryError("no memory")
        runner.read_apart(chunks)

    runner.strategies = replace(runner.strategies, read_chunks=read)
    for job in range(3):
        speaker.start(job, *[JOBS[job][0]], **JOBS[job][1])
    parts = speaker.rest()
    assert [p.job for p in parts if p.failed] == [1]
    for job in (0, 2):
        same(joined([p for p in parts if p.job == job]), said_alone(job))
    assert books(speaker.runner) == (ROOMY.blocks, 0, 0)


# --- any history --------------------------------------------------------------------------------------------------


class AnyHistory(RuleBasedStateMachine):
    """Jobs come, get their text, are held, let go and cancelled; there are too few blocks for all of them."""

    POOL = PoolSize(12, 4)
    MOST_JOBS = 8

    def __init__(self) -> None:
        super().__init__()
        self.speaker = Speaker(slots=4, max_positions=48, lag=1, pool=self.POOL)
        self.open: dict[int, list[str]] = {}  # text that a job has not got yet
        self.said: dict[int, list[ChunkOutput]] = {}
        self.number = 0

    @precondition(lambda self: self.number < self.MOST_JOBS)
    @rule(whole=st.booleans())
    def add(self, whole: bool) -> None:
        job, self.number = self.number, self.number + 1
        self.speaker.engine.add(job, self.speaker.utterance(**how(job)))
        text = text_of(job)
        self.open[job], self.said[job] = [text] if whole else [text[:9], text[9:]], []

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        self.feed(data.draw(st.sampled_from(list(self.open))))

    def feed(self, job: int) -> None:
        if job not in self.speaker.engine.jobs:
            del self.open[job]
        elif self.open[job]:
            self.speaker.engine.append_text(job, self.open[job].pop(0))
        else:
            self.speaker.engine.end_text(job)
            del self.open[job]

    @precondition(lambda self: self.speaker.engine.jobs)
    @rule(data=st.data(), held=st.booleans())
    def hold(self, data: st.DataObject, held: bool) -> None:
        self.speaker.engine.hold(data.draw(st.sampled_from(self.speaker.engine.jobs)), held)

    @precondition(lambda self: self.speaker.engine.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.speaker.engine.jobs))
        self.speaker.engine.cancel(job)
        self.open.pop(job, None)
        del self.said[job]

    @rule(steps=st.integers(1, 8))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            for progress in self.speaker.engine.step():
                self.said[progress.job].append(progress)

    @invariant()
    def every_block_is_free_or_held(self) -> None:
        free, used, _ = books(self.speaker.runner)
        assert free + used == self.POOL.blocks

    def teardown(self) -> None:
        for job in list(self.open):
            while job in self.open:
                self.feed(job)
        for job in self.speaker.engine.jobs:
            self.speaker.engine.hold(job, False)
        steps = 0
        while self.speaker.engine.busy:
            self.step(1)
            steps += 1
            assert steps < 1000, "no job makes progress"
        assert self.speaker.engine.jobs == ()
        assert books(self.speaker.runner) == (self.POOL.blocks, 0, 0)
        for job, parts in self.said.items():
            assert parts[-1].ended
            assert torch.equal(joined(parts)[0], codes_alone(job))


def text_of(job: int) -> str:
    return (TEXTS[0], MIDDLE, TEXTS[1])[job % 3]


def how(job: int) -> dict[str, Any]:
    return {"speaker": ("ryan", "vivian")[job % 2], "streaming": job % 4 > 0, "max_new_tokens": 14, "seed": job}


@cache
def codes_alone(job: int) -> torch.Tensor:
    return alone(text_of(job), 0, **how(job))[0]


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=5,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
