"""The paged engine through the public API, and regression tests for faults of the streaming fork's engine.

The streaming fork's engine needs a GPU and bfloat16; all of this runs on a CPU in float32.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.paged.runner import PagedRunner
from tests.engine.support.random_inputs import codes as random_codes
from tests.engine.support.streams import GREEDY, TEXTS, by_item, close, items, joined, model, prompt, rounds
from tests.engine.support.tiny_models import tiny_directory

PAGED = {"use_paged_engine": True}


@pytest.fixture(scope="module")
def preset() -> Any:
    """A model of its own, because tests exchange its engines."""
    directory = str(tiny_directory("custom_voice"))
    return engine.Qwen3TTSModel.from_pretrained(directory, device_map="cpu", max_positions=512)


def runner_of(speaker: Any) -> PagedRunner:
    return speaker._paged.opened().engine._engine._runner


def chunks(speaker: Any, text: Any, **given: Any) -> list[np.ndarray]:
    options = GREEDY | {"max_frames": 12} | given
    return [wave for wave, _ in speaker.stream_generate_custom_voice(text, "ryan", "english", **options)]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"non_streaming_mode": True, "emit_every_frames": 5, "first_chunk_emit_every": 1, "first_chunk_frames": 3},
        {"repetition_penalty": 1.7, "repetition_penalty_window": 4},
        {"do_sample": True, "subtalker_dosample": True, "top_p": 0.8, "temperature": 1.2, "seed": 5},
        {"windowed_decode": True},
    ],
    ids=["greedy", "two-phases", "penalty", "sampled", "windows"],
)
def test_paged_stream_equals_slot_stream(preset: Any, given: dict[str, Any]) -> None:
    ours, theirs = (chunks(preset, TEXTS[1], **given, **paged) for paged in (PAGED, {}))
    assert [len(wave) for wave in ours] == [len(wave) for wave in theirs]
    close(np.concatenate(ours), np.concatenate(theirs))


def test_paged_stream_accepts_text_in_pieces(preset: Any) -> None:
    words = TEXTS[2].partition(" o")

    def written() -> Iterator[str]:
        yield from words

    close(np.concatenate(chunks(preset, written(), **PAGED)), np.concatenate(chunks(preset, TEXTS[2])))


@pytest.mark.parametrize("compact", [False, True])
def test_paged_batch_of_unequal_prompts_equals_single_streams(compact: bool) -> None:
    given = {"voice_clone_prompt": items(), "emit_every_frames": 3, "max_frames": 20}
    together = by_item(rounds(compact_finished=compact, **given, **PAGED))
    for ours, theirs in zip(together, by_item(rounds(**given)), strict=True):
        close(ours, theirs)
    for wave, text, language, item in zip(together, TEXTS, ["en", "Auto", "de"], items(), strict=True):
        speaker = model(eos_gain=2.0)
        alone = {"voice_clone_prompt": item, "max_frames": 20, **GREEDY, **PAGED}
        close(wave, joined(speaker.stream_generate_voice_clone(text, language, **alone)))
    pool = runner_of(model(eos_gain=2.0)).paging.pool
    assert (pool.available, pool.used) == (pool.blocks, 0)


def test_paged_engine_shares_weights_with_slot_engine(preset: Any) -> None:
    chunks(preset, "hi", **PAGED)
    paged, rows = runner_of(preset), preset.engine._engine._runner
    assert paged is not rows
    assert paged.model is rows.model
    assert paged.max_positions == 512
    assert paged.state.cache.pool.shape[2] == 512 // 16 + 1
    assert (paged.slots, rows.slots) == (32, 8)


def test_paged_engine_is_opened_once_and_replaced_only_while_idle(preset: Any) -> None:
    preset.warmup_paged_engine()
    first = runner_of(preset)
    assert preset.enable_streaming_optimizations(use_paged_engine=True) is preset
    assert runner_of(preset) is first
    stream = preset.stream_generate_custom_voice("hello world", "ryan", emit_every_frames=1, max_frames=9, **PAGED)
    next(stream)
    other = {"use_paged_engine": True, "paged_gpu_memory_utilization": 0.2, "paged_enforce_eager": True}
    with pytest.raises(RuntimeError, match="close all"):
        preset.enable_streaming_optimizations(**other)
    stream.close()
    preset.enable_streaming_optimizations(**other)
    assert runner_of(preset) is not first
    close(np.concatenate(chunks(preset, "hi", **PAGED)), np.concatenate(chunks(preset, "hi")))


# --- the streaming fork's faults ----------------------------------------------------------------------------------


def test_paged_codes_equal_slot_codes_from_the_first_frame() -> None:
    """And no position is one too high: every code is that of the engine over rows."""
    speaker = model()
    paged = speaker._paged.opened().engine
    spoken = {}
    for name, driven in (("rows", speaker.engine), ("paged", paged)):
        with CodesOfStream(driven) as spoken[name]:
            given = {"voice_clone_prompt": prompt(), "max_frames": 12, **GREEDY}
            joined(speaker.stream_generate_voice_clone(TEXTS[0], "en", use_paged_engine=name == "paged", **given))
    rows, blocks = (torch.cat(parts, -1) for parts in (spoken["rows"], spoken["paged"]))
    assert rows.shape == (16, 12)
    assert torch.equal(rows, blocks)


class CodesOfStream:
    """Watches the codes of an engine's streams."""

    def __init__(self, watched: Any) -> None:
        self._watched, self._codes = watched, []

    def __enter__(self) -> list[torch.Tensor]:
        real, codes = self._watched.stream, self._codes

        def stream(*given: Any) -> Iterator[Any]:
            for progress in real(*given):
                codes.append(progress.codes)
                yield progress

        self._watched.stream = stream
        return codes

    def __exit__(self, *_: object) -> None:
        del self._watched.stream


def test_prompts_of_other_speakers_share_no_cached_blocks() -> None:
    """Prompts of several hundred positions, all of which are placeholders to who does not look at the voice."""
    speaker = engine.Qwen3TTSModel.from_pretrained(str(tiny_directory()), device_map="cpu", max_positions=1024)
    voices = []
    for seed in (1, 2):
        codes = torch.from_numpy(random_codes(1, 300, seed))[0].T
        vector = torch.randn(64, generator=torch.Generator().manual_seed(seed))
        voices.append(engine.VoiceClonePromptItem(codes, vector, False, True, "the same words"))
    voices.append(
        engine.VoiceClonePromptItem(voices[0].ref_code, voices[1].ref_spk_embedding, False, True, "the same words")
    )
    given = {"max_frames": 6, **GREEDY}
    exact = [
        joined(speaker.stream_generate_voice_clone(TEXTS[0], "en", voice_clone_prompt=each, **given)) for each in voices
    ]
    assert np.abs(exact[0] - exact[1]).max() > 0.01
    for _ in range(2):  # cold, and when all of them are known
        for each, theirs in zip(voices, exact, strict=True):
            close(
                joined(speaker.stream_generate_voice_clone(TEXTS[0], "en", voice_clone_prompt=each, **given, **PAGED)),
                theirs,
            )


def test_paged_stream_frees_all_blocks(preset: Any) -> None:
    runner, before = runner_of(preset), None
    for text in (TEXTS[0], TEXTS[1], "hi"):
        chunks(preset, text, max_frames=30, **PAGED)
        left = (
            runner.paging.pool.available,
            runner.paging.pool.used,
            len(runner._swapped),
            len(preset._paged.opened().engine._inboxes),
        )
        assert before in (None, left)
        before = left
    assert before == (runner.paging.pool.blocks, 0, 0, 0)


def test_paged_streams_of_several_threads_are_independent(preset: Any) -> None:
    def speak(number: int) -> np.ndarray:
        return np.concatenate(chunks(preset, TEXTS[number % 3] + "!" * number, max_frames=8, **PAGED))

    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(speak, range(6)))
    for number, wave in enumerate(together):
        close(wave, np.concatenate(chunks(preset, TEXTS[number % 3] + "!" * number, max_frames=8)))


def test_paged_batch_larger_than_pool_completes(preset: Any) -> None:
    """32 blocks of 16 positions for 20 streams of 30 and more: some wait, all speak."""
    texts = [f"{TEXTS[1]} {number}" for number in range(20)]
    given = {"max_frames": 10, "language": "english", "non_streaming_mode": True, **GREEDY}
    made = [waves for waves, _ in preset.batch_stream_generate_custom_voice(texts, "ryan", **given, **PAGED)]
    for text, wave in list(zip(texts, by_item(made), strict=True))[::5]:
        close(wave, joined(preset.stream_generate_custom_voice(text, "ryan", **given)))


def test_exclusive_section_runs_while_both_engines_are_idle(preset: Any) -> None:
    """Graphs are captured then, which nothing else on the GPU may disturb."""
    order: list[int | None] = []
    paged = preset._paged.opened().engine
    stream = preset.stream_generate_custom_voice(TEXTS[0], "ryan", emit_every_frames=1, max_frames=6, **PAGED)
    next(stream)
    preset.engine.exclusively(lambda: preset._paged.exclusively(lambda: order.append(paged._driver)))
    assert order == [threading.get_ident()]  # the preparing thread drives it, so no other thread can
    assert not preset._paged.idle
    with pytest.raises(RuntimeError, match="close all"):
        preset.enable_streaming_optimizations()
    assert len(list(stream)) == 5
    assert preset._paged.idle
