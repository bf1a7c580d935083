"""The store of prefixes: bounded, least recently used first to go, and a kept prefix is as good as a new one."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch

from engine.acceleration.capture import prompt_steps
from engine.prompt.sampling_params import SamplingParams
from engine.runtime.model_runner import Runner
from engine.runtime.prefill import PrefillRequest, VoiceVectors
from engine.runtime.prefix_cache import PrefixCache
from tests.engine.support.engine_harness import Speaker
from tests.engine.support.recorded_calls import Recorded
from tests.engine.support.tiny_models import tiny_model


def test_prefix_cache_is_bounded_and_evicts_lru() -> None:
    store: PrefixCache[str] = PrefixCache(max_bytes=10)
    store.put("a", "A", 4)
    store.put("b", "B", 4)
    assert store.get("a") == "A"
    store.put("c", "C", 4)
    assert [key for key in "abc" if key in store] == ["a", "c"]
    store.put("a", "A2", 10)
    assert (store.get("a"), store.get("c"), store.bytes) == ("A2", None, 10)


def test_prefix_larger_than_cache_is_not_stored_and_evicts_nothing() -> None:
    store: PrefixCache[int] = PrefixCache(max_bytes=10)
    store.put("a", 1, 6)
    store.put("b", 2, 11)
    assert ("a" in store, "b" in store, len(store), store.bytes) == (True, False, 1, 6)


def test_prefix_cache_accounting_holds_for_any_use() -> None:
    chance, store, model = random.Random(1), PrefixCache[int](max_bytes=50), OrderedDict[str, int]()
    for _ in range(2000):
        key, size = chance.choice("abcdefgh"), chance.randint(1, 60)
        if chance.random() < 0.5:
            assert store.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
            continue
        model.pop(key, None)
        store.put(key, size, size)
        if size <= store.max_bytes:
            while sum(model.values()) + size > store.max_bytes:
                model.popitem(last=False)
            model[key] = size
        assert store.bytes == sum(model.values()) <= store.max_bytes
        assert len(store) == len(model)


def test_prefix_cache_does_not_import_torch() -> None:
    code = "import sys, engine.runtime.prefix_cache, engine.scheduler.chunking; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def enter(runner: Runner, speaker: Speaker, slot: int, name: str = "ryan", text: tuple[int, ...] = (5, 6)) -> int:
    """Prefill a prompt into a slot and return how many positions were computed."""
    prompt = speaker.planner.custom_voice(name, "english", streaming=False).begin(text, True)
    runner.prefill([PrefillRequest(slot, prompt, VoiceVectors(), SamplingParams(), 1)])
    return len(prompt.head) - 1


@torch.inference_mode()
def test_warm_prefix_is_bitwise_equal_to_cold() -> None:
    speaker, runner = Speaker(), Runner(tiny_model("custom_voice"), 3, 256)
    read = enter(runner, speaker, 0)
    enter(runner, speaker, 1, "vivian")
    assert enter(runner, speaker, 2) == read
    assert len(runner.prefixes) == 2
    kv = runner.state.cache.kv
    assert torch.equal(kv[:, :, 0, :, :read], kv[:, :, 2, :, :read])
    assert torch.equal(runner.state.frame[0], runner.state.frame[2])
    assert not torch.equal(kv[:, :, 1, :, :read], kv[:, :, 2, :, :read])


@torch.inference_mode()
def test_uncached_prefix_is_prefilled_each_time() -> None:
    speaker, runner = Speaker(), Runner(tiny_model("custom_voice"), 3, 256)
    runner.prefixes = PrefixCache(max_bytes=0)
    read = enter(runner, speaker, 0)
    enter(runner, speaker, 2)
    kv = runner.state.cache.kv
    assert len(runner.prefixes) == 0
    assert torch.equal(kv[:, :, 0, :, :read], kv[:, :, 2, :, :read])


@torch.inference_mode()
@pytest.mark.parametrize(("words", "sizes"), [(2, [32, 32]), (50, [32, 64]), (300, [32])])
def test_prefill_chunks_are_padded_and_replayed_as_graphs(words: int, sizes: list[int]) -> None:
    speaker, plain = Speaker(), Runner(tiny_model("custom_voice"), 2, 512)
    runner = Runner(tiny_model("custom_voice"), 2, 512, lag=1)
    graphs = Recorded()
    runner.strategies = replace(runner.strategies, prompt_graphs=graphs)
    for step in prompt_steps(runner):
        graphs.capture(step.key, step.inputs, step.run)
    assert list(graphs.graphs) == [(32, 256), (64, 256), (128, 512), (256, 512)]
    text = tuple(range(5, 5 + words))
    read = enter(runner, speaker, 1, text=text)
    assert read == enter(plain, speaker, 1, text=text)
    assert [size for size, _ in graphs.replays] == sizes
    ours, theirs = (each.state.cache.kv[:, :, 1, :, :read] for each in (runner, plain))
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert torch.equal(runner.state.cache.kv[:, :, 0], torch.zeros_like(runner.state.cache.kv[:, :, 0]))
