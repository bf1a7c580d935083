"""The streams of the streaming fork through the public API: windows, decoding beside, batches."""

from __future__ import annotations

import inspect
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.api.windowed_decode import WindowDecoder
from engine.prompt.planner import PromptError
from engine.runtime.model_runner import Runner
from engine.scheduler.chunking import TwoPhasePlan
from tests.engine.support.streams import (
    FADE,
    GREEDY,
    TEXTS,
    WINDOWED,
    by_item,
    cloned,
    close,
    items,
    joined,
    model,
    prompt,
    rounds,
)
from tests.engine.support.tiny_models import tiny_directory, tiny_model

FORK_BATCH = {
    "language": None, "voice_clone_prompt": None, "non_streaming_mode": False, "emit_every_frames": 8,
    "decode_window_frames": 80, "overlap_samples": 512, "max_frames": 10000, "use_optimized_decode": True,
    "first_chunk_emit_every": 0, "first_chunk_decode_window": 48, "first_chunk_frames": 48,
    "repetition_penalty_window": 100, "repetition_penalty": 1.0, "async_decode": False, "compact_finished": False,
}  # fmt: skip


# --- windows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("beside", [False, True])
def test_large_windows_equal_exact_decoding_between_the_fades(in_context: bool, beside: bool) -> None:
    item = prompt(1, in_context)
    exact = np.concatenate(cloned(item=item))
    waves = cloned(item=item, emit_every_frames=5, async_decode=beside, **WINDOWED)
    assert [len(wave) for wave in waves] == [5 * 1920 - FADE, 5 * 1920, 5 * 1920, 5 * 1920, 1920 + FADE]
    close(np.concatenate(waves)[FADE:-FADE], exact[FADE:-FADE])


def test_small_windows_differ_and_keep_every_sample() -> None:
    exact = np.concatenate(cloned())
    small = {"emit_every_frames": 4, "decode_window_frames": 5, "first_chunk_emit_every": 2,
             "first_chunk_decode_window": 3, "first_chunk_frames": 4}  # fmt: skip
    waves = cloned(**WINDOWED, **small)
    assert [len(wave) for wave in waves] == [2 * 1920 - FADE, 2 * 1920, *[4 * 1920] * 4, 1920 + FADE]
    windowed = np.concatenate(waves)
    assert windowed.shape == exact.shape
    assert np.abs(windowed - exact).max() > 1e-2


def test_windows_contain_reference_and_speech_frames_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's at first, then the speech's own; never code 0 in the place of what is not there."""
    windows: list[torch.Tensor] = []
    real = WindowDecoder.window

    def watched(self: Any, codes: torch.Tensor, prepared: bool = True) -> torch.Tensor:
        windows.append(codes)
        return real(self, codes, prepared)

    monkeypatch.setattr(WindowDecoder, "window", watched)
    cloned(emit_every_frames=6, decode_window_frames=16, **WINDOWED)
    reference = prompt().ref_code.T  # [16, 13]
    assert [window.shape[1] for window in windows] == [16, 16, 16, 16]
    assert torch.equal(windows[0][:, :10], reference[:, 3:])
    assert torch.equal(windows[1][:, :4], reference[:, 9:])
    for (earlier, later), new in zip(pairwise(windows), (6, 6, 3), strict=True):
        assert torch.equal(later[:, : 16 - new], earlier[:, new:])
    windows.clear()
    cloned(item=prompt(1, False), emit_every_frames=6, decode_window_frames=16, **WINDOWED)
    assert [window.shape[1] for window in windows] == [6, 12, 16, 16]


def test_stream_without_windowed_decode_uses_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WindowDecoder, "decode", None)
    assert len(np.concatenate(cloned())) == 21 * 1920


@pytest.mark.parametrize("frames", [16, 17])
def test_windowed_stream_accepts_text_in_pieces(frames: int) -> None:
    pieces = iter(["hello ", "world, ", "你好 😀"])
    waves = cloned(pieces, frames=frames, emit_every_frames=8, **WINDOWED)  # type: ignore[arg-type]
    close(np.concatenate(waves), np.concatenate(cloned(frames=frames, emit_every_frames=8, **WINDOWED)))
    assert sum(map(len, waves)) == frames * 1920


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Any streaming parameters that are not refused."""
    steady, first, windowed = draw(st.integers(1, 12)), draw(st.integers(0, 6)), draw(st.booleans())
    overlap = draw(st.sampled_from([0, 64, FADE, 1920]))
    room = -(-overlap // 1920)
    return {
        "emit_every_frames": steady, "first_chunk_emit_every": first, "overlap_samples": overlap,
        "first_chunk_frames": max(first, draw(st.integers(1, 12))), "windowed_decode": windowed,
        "decode_window_frames": steady + room + draw(st.integers(0, 30)),
        "first_chunk_decode_window": max(first, 1) + room + draw(st.integers(0, 30)),
        "async_decode": draw(st.booleans()), "frames": draw(st.integers(1, 14)),
    }  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(plans(), st.booleans())
def test_stream_emits_every_sample_in_planned_chunks_for_any_parameters(plan: dict[str, Any], in_context: bool) -> None:
    item, frames = prompt(1, in_context), plan["frames"]
    waves, emission = cloned(item=item, **plan), TwoPhasePlan(
        plan["first_chunk_emit_every"], plan["first_chunk_frames"], plan["emit_every_frames"]
    )  # fmt: skip
    held = plan["overlap_samples"] if plan["windowed_decode"] else 0
    ends = [*accumulate(emission.frames(chunk) for chunk in range(frames))]
    expected = [min(end, frames) * 1920 - (held if end < frames else 0) for end in ends]
    arrived = [*accumulate(map(len, waves))]
    assert arrived[-1] == frames * 1920
    assert all(count in expected or count == frames * 1920 - held for count in arrived)
    if not plan["windowed_decode"]:
        close(np.concatenate(waves), np.concatenate(cloned(item=item, frames=frames)))


# --- beside -----------------------------------------------------------------------------------------------------


def test_async_decode_has_same_audio() -> None:
    for item in (prompt(), prompt(1, False)):
        waves, plain = cloned(item=item, async_decode=True), cloned(item=item)
        assert [len(wave) for wave in waves] == [len(wave) for wave in plain] == [8 * 1920, 8 * 1920, 5 * 1920]
        close(np.concatenate(waves), np.concatenate(plain))


def test_window_decoder_copies_weights_to_another_device() -> None:
    decoder = tiny_model().decoder
    here, there = WindowDecoder(decoder, torch.device("cpu")), WindowDecoder(decoder, torch.device("meta"))
    assert here.decoder is decoder
    assert {weight.device.type for weight in there.decoder.parameters()} == {"meta"}
    assert {weight.device.type for weight in decoder.parameters()} == {"cpu"}


def test_close_of_async_decoded_stream_frees_its_slot() -> None:
    only = model(slots=1)
    stream = only.stream_generate_voice_clone(TEXTS[0], voice_clone_prompt=prompt(), emit_every_frames=1,
                                              async_decode=True, max_frames=30, **GREEDY)  # fmt: skip
    next(stream)
    stream.close()
    assert only.engine.idle
    waves, _ = only.generate_voice_clone(TEXTS[1], voice_clone_prompt=prompt(), max_new_tokens=5, **GREEDY)
    assert len(waves[0]) == 4 * 1920


# --- batches ----------------------------------------------------------------------------------------------------


def test_batch_stream_signature_equals_that_of_the_streaming_fork() -> None:
    given = inspect.signature(engine.Qwen3TTSModel.batch_stream_generate_voice_clone).parameters.values()
    defaults = {each.name: each.default for each in given if each.kind is each.POSITIONAL_OR_KEYWORD}
    assert list(defaults)[:2] == ["self", "text"]
    assert list(defaults.items())[2:-2] == list(FORK_BATCH.items())
    assert list(defaults.items())[-2:] == [("use_paged_engine", False), ("windowed_decode", False)]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("slots", [4, 2], ids=["together", "more-texts-than-slots"])
def test_batch_stream_equals_single_streams(compact: bool, slots: int) -> None:
    speaker = model(slots=slots, eos_gain=2.0)
    waves = by_item(rounds(voice_clone_prompt=items(), compact_finished=compact, model=speaker, emit_every_frames=3))
    assert len({len(wave) for wave in waves}) == 3  # each ends by itself
    for wave, text, language, item in zip(waves, TEXTS, ["en", "Auto", "de"], items(), strict=True):
        single = speaker.stream_generate_voice_clone(text, language, voice_clone_prompt=item, max_frames=60, **GREEDY)
        close(wave, joined(single))


def test_batch_stream_broadcasts_one_voice_and_language() -> None:
    shared = by_item(rounds(voice_clone_prompt=prompt(), language="en", max_frames=9))
    each = by_item(rounds(voice_clone_prompt=[prompt()] * 3, language=["en"] * 3, max_frames=9))
    for ours, theirs in zip(shared, each, strict=True):
        close(ours, theirs)


def test_batch_stream_emits_last_chunk_at_once_then_empty_arrays() -> None:
    made = rounds(voice_clone_prompt=items(), emit_every_frames=3)
    frames = [[len(wave) // 1920 for wave in waves] for waves in made]
    for column in zip(*frames, strict=True):
        last = max(index for index, count in enumerate(column) if count)
        assert all(0 < count <= 3 for count in column[:last] if count)
        assert not any(column[last + 1 :])
    ends = sorted(max(index for index, count in enumerate(column) if count) for column in zip(*frames, strict=True))
    assert ends[0] < ends[-1] == len(made) - 1
    assert all(any(len(wave) for wave in waves) for waves in made)


@pytest.mark.parametrize("compact", [False, True])
def test_finished_item_leaves_batch_at_once(compact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    advance = Runner.advance

    def watched(self: Runner, slots: Any, texts: Any) -> Any:
        rows.append(len(slots))
        return advance(self, slots, texts)

    monkeypatch.setattr(Runner, "advance", watched)
    made = by_item(rounds(voice_clone_prompt=items(), compact_finished=compact))
    frames = sorted(len(wave) // 1920 for wave in made)
    assert rows == sorted(rows, reverse=True)
    assert [rows.count(size) for size in (3, 2, 1)] == [frames[0] + 1, frames[1] - frames[0], frames[2] - frames[1]]


@pytest.mark.parametrize("how", [WINDOWED, {"async_decode": True}, WINDOWED | {"async_decode": True}])
def test_batch_stream_with_windows_or_async_decode_equals_exact_decoding(how: dict[str, Any]) -> None:
    made = by_item(rounds(voice_clone_prompt=items(), **how))
    for wave, exact in zip(made, by_item(rounds(voice_clone_prompt=items())), strict=True):
        edge = FADE if "windowed_decode" in how else 0
        close(wave[edge : len(wave) - edge], exact[edge : len(exact) - edge])


def test_batch_stream_of_other_model_kinds_equals_single_streams() -> None:
    preset, designed = model("custom_voice"), model("voice_design")
    options = GREEDY | {"max_frames": 9, "compact_finished": True}
    made = [waves for waves, _ in preset.batch_stream_generate_custom_voice(TEXTS, ["ryan", "eric", "ryan"], **options)]
    for text, speaker, wave in zip(TEXTS, ["ryan", "eric", "ryan"], by_item(made), strict=True):
        close(wave, joined(preset.stream_generate_custom_voice(text, speaker, max_frames=9, **GREEDY)))
    made = [waves for waves, _ in designed.batch_stream_generate_voice_design(TEXTS, "a calm voice", "de", **options)]
    for text, wave in zip(TEXTS, by_item(made), strict=True):
        close(wave, joined(designed.stream_generate_voice_design(text, "a calm voice", "de", max_frames=9, **GREEDY)))
    drawn = {"max_frames": 5, "seed": 3}
    two = by_item([w for w, _ in preset.batch_stream_generate_custom_voice([TEXTS[0]] * 2, "ryan", **drawn)])
    close(two[1], joined(preset.stream_generate_custom_voice(TEXTS[0], "ryan", max_frames=5, seed=4)))
    assert np.abs(two[0] - two[1]).max() > 0.01


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "voice_clone_prompt is required"),
        ({"voice_clone_prompt": "two"}, "3 texts, but 2 of voice_clone_prompt"),
        ({"voice_clone_prompt": "one", "language": ["en"] * 2}, "3 texts, but 2 of language"),
        ({"voice_clone_prompt": "one", "emit_every_frames": 0}, "emit_every_frames"),
        ({"voice_clone_prompt": "one", "temprature": 1}, "did you mean 'temperature'"),
    ],
)
def test_batch_stream_rejects_invalid_arguments_at_the_call(given: dict[str, Any], words: str) -> None:
    prompts = {"one": prompt(), "two": [prompt()] * 2}
    given = given | {"voice_clone_prompt": prompts.get(given.get("voice_clone_prompt", ""))}
    with pytest.raises(ValueError, match=words):
        model().batch_stream_generate_voice_clone(TEXTS, **given)


def test_batch_stream_emits_nothing_for_empty_item() -> None:
    made = by_item(rounds(text=["", TEXTS[1], " "], voice_clone_prompt=prompt(1, False), max_frames=9, model=model()))
    assert [len(wave) for wave in made] == [0, 9 * 1920, 0]


def test_close_of_batch_stream_frees_all_slots() -> None:
    speaker = model(slots=2)
    batch = speaker.batch_stream_generate_voice_clone(TEXTS, voice_clone_prompt=prompt(), emit_every_frames=1,
                                                      max_frames=30, **GREEDY)  # fmt: skip
    next(batch)
    batch.close()
    assert speaker.engine.idle
    assert len(speaker.generate_voice_clone(TEXTS[:2], voice_clone_prompt=prompt(), max_new_tokens=4, **GREEDY)[0]) == 2


def test_batch_stream_with_oversized_text_raises_and_frees_slots() -> None:
    directory = str(tiny_directory("custom_voice"))
    small = engine.Qwen3TTSModel.from_pretrained(directory, device="cpu", slots=2, max_positions=30)
    texts = ["hi", "many words " * 40]
    with pytest.raises(PromptError, match="positions"):
        list(small.batch_stream_generate_custom_voice(texts, "ryan", non_streaming_mode=True, **GREEDY))
    assert small.engine.idle
    short = joined(small.stream_generate_custom_voice("hi", "ryan", max_frames=5, **GREEDY))
    assert len(short) == 5 * 1920


@pytest.mark.parametrize("way", [{}, WINDOWED, {"async_decode": True}], ids=str)
def test_speech_that_fills_its_slot_fades_out(way: dict[str, Any]) -> None:
    directory = str(tiny_directory("custom_voice"))
    small = engine.Qwen3TTSModel.from_pretrained(directory, device="cpu", slots=1, max_positions=24)
    wave = joined(small.stream_generate_custom_voice("hi", "ryan", emit_every_frames=4, **GREEDY, **way))
    assert 0 < len(wave) < 24 * 1920
    assert len(wave) % 1920 == 0
    assert abs(wave[-1]) < 1e-6
    assert np.abs(wave[-1920:-960]).max() > 10 * np.abs(wave[-100:]).max()
