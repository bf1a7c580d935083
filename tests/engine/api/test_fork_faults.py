"""Regression tests for faults of the streaming fork, each by its symptom.

Tests of further faults: `test_captured_graph_honours_every_parameter_and_batch_size` (test_code_predictor),
`test_batch_stream_emits_last_chunk_at_once_then_empty_arrays` and
`test_windows_contain_reference_and_speech_frames_only` (test_fork_streams),
`test_stream_options_defaults_equal_those_of_the_signatures` and `test_streams_of_every_model_kind_equal_generate`
(test_model).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.api.stream_options import StreamOptions
from engine.prompt.sampling_params import Draw, SamplingParams
from engine.runtime.codec_step import EagerCodec
from engine.runtime.sampler import CodeRules, Sampler, SamplerLimits
from engine.scheduler.sequence import end_ids
from tests.engine.support.api_trace import codes_of
from tests.engine.support.streams import FADE, GREEDY, TEXTS, WINDOWED, by_item, cloned, close, joined, model, prompt
from tests.engine.support.streams import rounds as batch
from tests.engine.support.tiny_models import tiny_directory, tiny_model

BOTH_WAYS = pytest.mark.parametrize("way", [{}, WINDOWED], ids=["incremental", "windowed"])


def sampler(params: SamplingParams) -> Sampler:
    made = Sampler(1, CodeRules(), SamplerLimits(), torch.device("cpu"))
    made.join(0, params, 1)
    return made


def draw(made: Sampler, logits: dict[int, float]) -> int:
    scores, slots = torch.zeros(1, 3072), torch.zeros(1, dtype=torch.int64)
    for index, value in logits.items():
        scores[0, index] = value
    return int(made.talker(scores, slots, slots == 0))


@BOTH_WAYS
def test_audio_is_not_shortened_at_chunk_borders(way: dict[str, Any]) -> None:
    waves = cloned(frames=37, emit_every_frames=8, first_chunk_emit_every=3, first_chunk_frames=12, **way)
    assert len(waves) == 4 + 4
    assert sum(map(len, waves)) == 37 * 1920


@BOTH_WAYS
def test_end_of_audio_is_kept_when_frames_are_a_multiple_of_the_interval(way: dict[str, Any]) -> None:
    wave, exact = (np.concatenate(cloned(frames=16, **which)) for which in (way, {}))
    assert len(wave) == 16 * 1920
    fall = 0.5 * (1 + np.cos(np.linspace(0, np.pi, FADE, dtype=np.float32))) if way else 1.0
    assert np.abs(exact[-FADE:]).max() > 0.01
    close(wave[-FADE:], exact[-FADE:] * fall)


@BOTH_WAYS
def test_second_phase_with_shorter_interval_drops_no_frames(way: dict[str, Any]) -> None:
    waves = cloned(frames=41, emit_every_frames=5, first_chunk_emit_every=12, first_chunk_frames=24, **way)
    frames = np.diff([round(end / 1920) for end in np.cumsum([0, *map(len, waves)])])
    assert frames.tolist() == [12, 12, 5, 5, 5, 2]


def test_first_window_contains_no_padding() -> None:
    item = prompt(1, False)
    close(cloned(item=item, **WINDOWED)[0][FADE:], cloned(item=item)[0][FADE:-FADE])


@BOTH_WAYS
def test_unequal_prompts_in_a_batch_are_independent(way: dict[str, Any]) -> None:
    items, texts = [prompt(3, False), prompt(2, True, 1.7)], ["hi", " ".join(TEXTS)]
    options = way | {"non_streaming_mode": True, "max_frames": 12, "language": "en"}
    together = by_item(batch(text=texts, voice_clone_prompt=items, model=model(), **options))
    for wave, text, item in zip(together, texts, items, strict=True):
        options = way | {"non_streaming_mode": True, "max_frames": 12, **GREEDY}
        close(wave, joined(model().stream_generate_voice_clone(text, "en", voice_clone_prompt=item, **options)))


@pytest.mark.parametrize("sampled", [False, True])
def test_sampler_never_draws_special_codes(sampled: bool) -> None:
    made = sampler(SamplingParams(talker=Draw(do_sample=sampled)))
    assert draw(made, {2048: 90.0, 2149: 91.0, 2157: 99.0, 3071: 95.0, 1234: 60.0}) == 1234


def test_sampler_suppresses_eos_for_the_first_two_codes() -> None:
    made = sampler(SamplingParams())
    drawn = [draw(made, {2150: 99.0, 2157: 98.0, number: 60.0}) for number in (3, 4, 5)]
    assert drawn == [3, 4, 2150]


def test_further_end_ids_stay_suppressed_and_text_ids_are_ignored() -> None:
    """The streaming fork's list of ends takes them out of the suppression too, so that 2157 could be drawn."""
    assert end_ids(tiny_model().config.talker) == {2150, 2157}
    made = sampler(SamplingParams(end_ids=(2157, 7)))
    assert draw(made, {2157: 99.0, 20: 60.0}) == 20


def test_eos_token_id_of_the_caller_ends_speech() -> None:
    greedy, one = GREEDY | {"max_new_tokens": 13}, model("custom_voice")
    with codes_of(one) as codes:
        one.generate_custom_voice(TEXTS[0], "ryan", **greedy)
        ends = [int(code) for code in codes[0][[5, 9], 0]]
        one.generate_custom_voice(TEXTS[0], "ryan", eos_token_id=ends, **greedy)
    first = min(codes[0][:, 0].tolist().index(code) for code in ends)
    assert torch.equal(codes[1], codes[0][:first])
    greedy |= {"non_streaming_mode": True, "repetition_penalty": 1.05, "repetition_penalty_window": 0}
    stream = one.stream_generate_custom_voice(TEXTS[0], "ryan", eos_token_id=ends, **greedy)
    assert len(joined(stream)) == first * 1920


def test_smaller_of_max_new_tokens_and_max_frames_applies() -> None:
    assert sum(map(len, cloned(max_new_tokens=5))) == 4 * 1920
    assert sum(map(len, cloned(frames=6, max_new_tokens=500))) == 6 * 1920


def test_repetition_penalty_applies_before_drawing_and_within_its_window() -> None:
    """Of two codes with similar scores, penalize the one just drawn until it leaves the window."""
    made = sampler(SamplingParams(talker=Draw(do_sample=False), repetition_penalty=1.5, penalty_window=1))
    assert [draw(made, {7: 10.0, 8: 9.0}) for _ in range(4)] == [7, 8, 7, 8]
    made = sampler(SamplingParams(talker=Draw(do_sample=False), repetition_penalty=1.5, penalty_window=0))
    assert [draw(made, {7: 10.0, 8: 9.0, 9: 8.0}) for _ in range(4)] == [7, 8, 9, 7]


def test_talker_and_predictor_apply_top_p_alike() -> None:
    """Both keep the code that crosses p: 0.5 + 0.3 reaches 0.6."""
    draws = Draw(temperature=1.0, top_k=0, top_p=0.6)
    found: dict[str, set[int]] = {"talker": set(), "predictor": set()}
    slots = torch.zeros(1, dtype=torch.int64)
    for seed in range(60):
        made = Sampler(1, CodeRules(), SamplerLimits(), torch.device("cpu"))
        made.join(0, SamplingParams(draws, draws), seed)
        scores = torch.full((1, 3072), -99.0)
        scores[0, :3] = torch.tensor([0.5, 0.3, 0.2]).log()
        found["talker"].add(int(made.talker(scores, slots, slots == 0)))
        noise = made.predictor_noise(slots)[:, 0]
        found["predictor"].add(int(made.predictor(scores[:, :2048], slots, noise)))
    assert found == {"talker": {0, 1}, "predictor": {0, 1}}


def test_long_stream_equals_reference_and_codes_decoded_together() -> None:
    """Longer than the streaming fork's window of 80 frames, so that there the reference would be gone."""
    wave = np.concatenate(cloned(frames=90, emit_every_frames=7))
    with codes_of(model()) as codes:
        options = GREEDY | {"max_new_tokens": 91, "repetition_penalty": 1.0}
        model().generate_voice_clone(TEXTS[0], "en", voice_clone_prompt=prompt(), **options)
    reference = prompt().ref_code
    with torch.inference_mode():
        together = tiny_model().decoder.decode(torch.cat((reference, codes[0])).T[None])[0]
    close(wave, together[1920 * len(reference) :].numpy())


def test_stream_decodes_each_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    step = EagerCodec.step

    def watched(self: EagerCodec, codes: Any, starts: Any, slots: Any, frames: int) -> Any:
        decoded.append(frames * len(slots))
        return step(self, codes, starts, slots, frames)

    monkeypatch.setattr(EagerCodec, "step", watched)
    cloned(frames=21, emit_every_frames=3)
    assert sum(decoded) == 21


def test_chunk_as_long_as_its_window_loses_no_frames() -> None:
    waves = cloned(frames=25, emit_every_frames=10, decode_window_frames=10, overlap_samples=0, **WINDOWED)
    assert [len(wave) // 1920 for wave in waves] == [10, 10, 5]
    with pytest.raises(ValueError, match="decode_window_frames=9 must be at least 10"):
        StreamOptions(emit_every_frames=10, decode_window_frames=9, overlap_samples=0, windowed_decode=True)


def test_streaming_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    model().enable_streaming_optimizations()
    cloned(frames=3, **WINDOWED)
    assert capsys.readouterr() == ("", "")


def test_from_pretrained_does_not_modify_config_file() -> None:
    config = tiny_directory("custom_voice") / "config.json"
    before = config.read_bytes()
    engine.Qwen3TTSModel.from_pretrained(str(config.parent), device_map="cpu", attn_implementation="flash_attention_2")
    assert config.read_bytes() == before
