"""The public API on tiny checkpoints: signatures, modes, batches, streams alone, interleaved and from threads."""

from __future__ import annotations

import gc
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import engine
from engine.api.inputs import FromPretrained
from engine.api.stream_options import StreamOptions
from engine.api.threaded_engine import EngineFailure, ThreadedEngine
from engine.prompt.planner import PromptError
from engine.prompt.sampling_params import SamplingError
from engine.scheduler.engine import Engine, GenerationRequest
from tests.engine.support.api_trace import codes_of
from tests.engine.support.random_inputs import codes, sound
from tests.engine.support.tiny_models import tiny_directory, tiny_model

Model = engine.Qwen3TTSModel
TEXTS = ["hello world, 你好 😀", "the washing machine has finished", "naïve 한국어 e\u0301 😀👍🏽"]
GREEDY = {"do_sample": False, "subtalker_dosample": False, "max_new_tokens": 8}
STREAMED = GREEDY | {"repetition_penalty": 1.05, "repetition_penalty_window": 0}
STREAMING_DEFAULTS = {
    "emit_every_frames": 8, "decode_window_frames": 80, "overlap_samples": 512, "max_frames": 10000,
    "use_optimized_decode": True, "first_chunk_emit_every": 0, "first_chunk_decode_window": 48,
    "first_chunk_frames": 48, "repetition_penalty_window": 100, "repetition_penalty": 1.0, "async_decode": False,
    "use_paged_engine": False,
}  # fmt: skip
OURS = {"windowed_decode": False}
NEEDED = inspect.Parameter.empty
CLONE = {
    "text": NEEDED, "language": None, "ref_audio": None, "ref_text": None, "x_vector_only_mode": False,
    "voice_clone_prompt": None, "non_streaming_mode": False,
}  # fmt: skip
SIGNATURES = {
    "create_voice_clone_prompt": {"ref_audio": NEEDED, "ref_text": None, "x_vector_only_mode": False},
    "generate_voice_clone": CLONE,
    "generate_custom_voice": {
        "text": NEEDED, "speaker": NEEDED, "language": None, "instruct": None, "non_streaming_mode": True,
    },
    "generate_voice_design": {"text": NEEDED, "instruct": NEEDED, "language": None, "non_streaming_mode": True},
    "stream_generate_voice_clone": CLONE | STREAMING_DEFAULTS | OURS,
    "stream_generate_custom_voice": {
        "text": NEEDED, "speaker": NEEDED, "language": None, "instruct": None, "non_streaming_mode": False,
    },
    "stream_generate_voice_design": {"text": NEEDED, "instruct": NEEDED, "language": None, "non_streaming_mode": False},
    "batch_stream_generate_custom_voice": {
        "text": NEEDED, "speaker": NEEDED, "language": None, "instruct": None, "non_streaming_mode": False,
    },
    "batch_stream_generate_voice_design": {
        "text": NEEDED, "instruct": NEEDED, "language": None, "non_streaming_mode": False,
    },
    "get_supported_speakers": {},
    "get_supported_languages": {},
}  # fmt: skip
TOKENIZER_SIGNATURES = {
    "encode": {"audios": NEEDED, "sr": None, "return_dict": True},
    "decode": {"encoded": NEEDED},
    "get_model_type": {}, "get_input_sample_rate": {}, "get_output_sample_rate": {},
    "get_encode_downsample_rate": {}, "get_decode_upsample_rate": {},
}  # fmt: skip


@cache
def model(kind: str = "custom_voice", slots: int = 3) -> Any:
    return Model.from_pretrained(str(tiny_directory(kind)), device_map="cpu", torch_dtype=torch.float32, slots=slots)


@cache
def prompt(in_context: bool = True) -> Any:
    recording = (sound(1.0, 1), 24_000)
    if in_context:
        return model("base").create_voice_clone_prompt(recording, "the door is open")
    return model("base").create_voice_clone_prompt(recording, x_vector_only_mode=True)


@cache
def streamed(text: str) -> np.ndarray:
    return whole(model().stream_generate_custom_voice(text, "ryan", **STREAMED))


def whole(chunks: Iterator[tuple[np.ndarray, int]]) -> np.ndarray:
    return np.concatenate([wave for wave, _ in chunks])


def same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4


def parameters(function: Any) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_model_signatures_equal_those_of_reference_and_streaming_fork(name: str) -> None:
    assert list(parameters(getattr(Model, name)).items()) == list(SIGNATURES[name].items())


@pytest.mark.parametrize("name", TOKENIZER_SIGNATURES)
def test_tokenizer_signatures_equal_those_of_the_reference(name: str) -> None:
    assert parameters(getattr(engine.Qwen3TTSTokenizer, name)) == TOKENIZER_SIGNATURES[name]


def test_stream_options_defaults_equal_those_of_the_signatures() -> None:
    assert parameters(StreamOptions) == STREAMING_DEFAULTS | OURS


def test_voice_clone_prompt_item_has_fields_of_the_reference() -> None:
    fields = {"ref_code": NEEDED, "ref_spk_embedding": NEEDED, "x_vector_only_mode": NEEDED, "icl_mode": NEEDED}
    assert parameters(engine.VoiceClonePromptItem) == fields | {"ref_text": None}


def test_import_engine_does_not_import_torch() -> None:
    code = "import engine, sys; assert not {'torch', 'numpy'} & {*sys.modules}; dir(engine); engine.nothing"
    root = Path(__file__).parents[3]
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert "module 'engine' has no attribute 'nothing'" in finished.stderr


# --- loading ----------------------------------------------------------------------------------------------------


def test_from_pretrained_accepts_keywords_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ({"device_map": "cpu"}, {"device": torch.device("cpu")}, {"device_map": {"": "cpu"}}):
        options = FromPretrained.read({"attn_implementation": "flash_attention_2", "dtype": "auto", **device})
        assert options.load_options().device == "cpu"
        assert options.load_options().dtype is torch.float32
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    options = FromPretrained.read({"torch_dtype": torch.bfloat16, "device_map": 0, "cache_dir": "/x"}).load_options()
    assert (options.dtype, options.device) == (torch.bfloat16, "cuda:0")


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"torch_dtyp": "float32"}, TypeError, "did you mean 'torch_dtype'"),
        ({"dtype": "int8"}, ValueError, "int8"),
        ({"device_map": {"talker": 0, "codec": 1}}, ValueError, "one device"),
        ({"slots": 0}, ValueError, "slots must be at least 1, not 0"),
        ({"max_positions": 10.5}, ValueError, "max_positions must be a whole number"),
        ({"slots": None}, ValueError, "slots must be a whole number, not None"),
        ({"max_positions": 0}, ValueError, "max_positions must be at least 1, not 0"),
        ({"device": "cpu", "codec_device": "cuda:99"}, ValueError, "codec_device cuda:99: torch sees"),
        ({"device_map": "cuda:99"}, ValueError, "device_map cuda:99: torch sees"),
        ({"device": "gpu"}, ValueError, "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ({"device": 1.5}, ValueError, "device must be auto, cpu, cuda or cuda:N, not 1.5"),
    ],
)
def test_from_pretrained_rejects_invalid_keywords(keywords: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        Model.from_pretrained(str(tiny_directory()), **keywords)


def test_model_lists_supported_speakers_and_languages() -> None:
    assert model().get_supported_speakers()[:3] == ["aiden", "dylan", "eric"]
    assert model("base").get_supported_speakers() == []
    languages = model().get_supported_languages()
    assert languages == sorted(languages)
    assert {"auto", "english"} < set(languages)
    assert "beijing_dialect" not in languages


# --- whole utterances -------------------------------------------------------------------------------------------


def test_generate_returns_decoded_codes() -> None:
    with codes_of(model()) as made:
        (wave,), rate = model().generate_custom_voice(TEXTS[0], "Ryan", "English", **GREEDY)
    assert rate == 24_000
    assert made[0].shape == (7, 16)
    with torch.inference_mode():
        same(wave, tiny_model("custom_voice").decoder.decode(made[0].T[None])[0].numpy())


def test_clone_continues_codec_state_of_the_recording() -> None:
    (item,) = prompt()
    with codes_of(model("base")) as made:
        (wave,), _ = model("base").generate_voice_clone(TEXTS[0], voice_clone_prompt=[item], **GREEDY)
    together = torch.cat([item.ref_code, made[0]]).T[None]
    with torch.inference_mode():
        decoded = tiny_model("base").decoder.decode(together)[0].numpy()
    same(wave, decoded[1920 * len(item.ref_code) :])


@pytest.mark.parametrize("at_once", [False, True])
def test_generate_batch_equals_single_calls(at_once: bool) -> None:
    options = GREEDY | {"non_streaming_mode": at_once}
    speakers, languages = ["ryan", "dylan", "eric", "ryan"], ["English", None, "Chinese", "de"]
    texts = [*TEXTS, "hi"]  # one more than there are slots
    waves, _ = model().generate_custom_voice(texts, speakers, languages, "slowly", **options)
    for wave, *each in zip(waves, texts, speakers, languages, strict=True):
        same(wave, model().generate_custom_voice(*each, "slowly", **options)[0][0])


def test_generate_batch_accepts_one_voice_or_one_per_text() -> None:
    items = [prompt()[0], prompt(False)[0], prompt()[0]]
    waves, _ = model("base").generate_voice_clone(TEXTS, "English", voice_clone_prompt=items, **GREEDY)
    for wave, text, item in zip(waves, TEXTS, items, strict=True):
        same(wave, model("base").generate_voice_clone(text, "English", voice_clone_prompt=[item], **GREEDY)[0][0])
    shared, _ = model("base").generate_voice_clone(TEXTS, "English", voice_clone_prompt=items[0], **GREEDY)
    same(shared[2], waves[2])


def test_generate_voice_clone_accepts_recording_prompt_item_or_dict() -> None:
    recording = (sound(1.0, 1), 24_000)
    heard = model("base").generate_voice_clone(TEXTS[0], ref_audio=recording, ref_text="the door is open", **GREEDY)
    kept = model("base").generate_voice_clone(TEXTS[0], voice_clone_prompt=prompt(), **GREEDY)
    same(heard[0][0], kept[0][0])
    item = prompt(False)[0]
    names = ("ref_code", "ref_spk_embedding", "x_vector_only_mode", "icl_mode")
    lists = {name: [getattr(item, name)] for name in names}
    same(
        model("base").generate_voice_clone(TEXTS[0], voice_clone_prompt=lists, **GREEDY)[0][0],
        model("base").generate_voice_clone(TEXTS[0], voice_clone_prompt=[item], **GREEDY)[0][0],
    )


def test_generate_voice_design_with_and_without_description() -> None:
    waves, _ = model("voice_design").generate_voice_design(TEXTS[:2], ["a calm voice", ""], **GREEDY)
    assert [len(wave) for wave in waves] == [7 * 1920] * 2
    assert np.abs(waves[0] - waves[1]).max() > 0.01


def test_empty_text_generates_no_samples() -> None:
    waves, _ = model().generate_custom_voice(["", TEXTS[0]], "ryan", **GREEDY)
    assert [len(wave) for wave in waves] == [0, 7 * 1920]
    assert list(model().stream_generate_custom_voice(" ", "ryan", **STREAMED)) == []


def test_seed_repeats_audio_and_batch_items_differ() -> None:
    sampled = {"max_new_tokens": 6, "seed": 5}
    (one, two), _ = model().generate_custom_voice([TEXTS[0]] * 2, "ryan", **sampled)
    (again, _), _ = model().generate_custom_voice([TEXTS[0], TEXTS[1]], "ryan", **sampled)
    (next_seed,), _ = model().generate_custom_voice(TEXTS[0], "ryan", **sampled | {"seed": 6})
    same(one, again)
    same(two, next_seed)
    assert np.abs(one - two).max() > 0.01
    (other,), _ = model().generate_custom_voice(TEXTS[0], "ryan", max_new_tokens=6)
    assert np.abs(one - other).max() > 0.01


def test_max_positions_ends_speech_with_fade_out() -> None:
    small = Model.from_pretrained(str(tiny_directory("custom_voice")), device="cpu", slots=1, max_positions=20)
    (wave,), _ = small.generate_custom_voice("hi", "ryan", **GREEDY | {"max_new_tokens": 100})
    assert 0 < len(wave) < 20 * 1920
    assert abs(wave[-1]) < 1e-6
    with pytest.raises(PromptError, match="positions"):
        small.generate_custom_voice("many words " * 40, "ryan", **GREEDY)


def test_cache_grows_with_the_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.api.generation.FIRST_POSITIONS", 4)
    growing = Model.from_pretrained(str(tiny_directory("custom_voice")), device="cpu", slots=2)
    options = GREEDY | {"max_new_tokens": 14, "non_streaming_mode": False}  # 10 positions at first, 22 at last
    waves, _ = growing.generate_custom_voice(TEXTS[:2], "ryan", "English", **options)
    for wave, expected in zip(
        waves, model().generate_custom_voice(TEXTS[:2], "ryan", "English", **options)[0], strict=True
    ):
        same(wave, expected)


@pytest.mark.parametrize(
    ("kind", "method", "given", "error", "words"),
    [
        ("custom_voice", "generate_custom_voice", ("hi", "rian"), ValueError, "did you mean 'ryan'"),
        ("custom_voice", "generate_custom_voice", ("hi", None), ValueError, "unknown speaker"),
        ("custom_voice", "generate_custom_voice", ("hi", "ryan", "Klingon"), ValueError, "unknown language"),
        ("custom_voice", "generate_custom_voice", (["hi"] * 3, ["ryan"] * 2), ValueError, "3 texts, but 2 of speaker"),
        ("custom_voice", "generate_custom_voice", (iter(["hi"]), "ryan"), TypeError, "pieces"),
        ("custom_voice", "generate_voice_design", ("hi", "calm"), ValueError, "voice_design"),
        ("custom_voice", "create_voice_clone_prompt", ((sound(1), 24_000), "hi"), ValueError, "base"),
        ("base", "generate_voice_clone", ("hi",), ValueError, "ref_audio"),
        ("base", "create_voice_clone_prompt", ((sound(1), 24_000),), ValueError, "ref_text is required"),
        ("base", "create_voice_clone_prompt", ("https://example.org/a.wav", "hi"), ValueError, "not allowed"),
        ("custom_voice", "stream_generate_custom_voice", (["a", "b"], "ryan"), TypeError, "one text"),
        ("custom_voice", "stream_generate_custom_voice", ("a", ["ryan"]), PromptError, "speaker must be a str"),
        ("custom_voice", "stream_generate_custom_voice", ("a", "ryan", ["en"]), PromptError, "language must be a str"),
        ("custom_voice", "stream_generate_custom_voice", ("a", "ryan", "en", 5), PromptError, "instruct must be a str"),
        ("custom_voice", "stream_generate_custom_voice", (None, "ryan"), TypeError, "must be a str .* not NoneType"),
    ],
)
def test_generate_rejects_invalid_arguments_with_reason(
    kind: str, method: str, given: tuple, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        getattr(model(kind), method)(*given)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"temprature": 1.0}, SamplingError, "did you mean 'temperature'"),
        ({"temperature": 0}, SamplingError, "do_sample=False"),
        ({"repetition_penalty_window": 5000}, SamplingError, "at most 512"),
        ({"max_new_tokens": 0}, SamplingError, "max_new_tokens must be between 1"),
        ({"max_new_tokens": "5"}, SamplingError, "max_new_tokens must be a whole number"),
        ({"max_new_tokens": float("nan")}, SamplingError, "max_new_tokens must be a whole number"),
        ({"use_paged_engine": 1}, ValueError, "use_paged_engine"),
        ({"emit_every_frames": 0}, ValueError, "emit_every_frames"),
    ],
)
def test_stream_rejects_invalid_keywords_at_the_call(keywords: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        model().stream_generate_custom_voice("hi", "ryan", **keywords)


def test_contradictory_prompt_item_is_rejected() -> None:
    speaker = prompt(False)[0].ref_spk_embedding
    for item in ((None, speaker, False, True, "hi"), (None, speaker, False, False)):
        with pytest.raises(ValueError, match="icl_mode"):
            model("base").generate_voice_clone("hi", voice_clone_prompt=[engine.VoiceClonePromptItem(*item)])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("anna", "must come from create_voice_clone_prompt, not be str"),
        ([None], "must come from create_voice_clone_prompt, not be NoneType"),
        (torch.zeros(64), "must come from create_voice_clone_prompt, not be Tensor"),
        ({"ref_code": [None], "icl_mode": [False]}, "needs ref_spk_embedding, x_vector_only_mode"),
    ],
    ids=["a name", "nothing", "an x-vector", "half a dict"],
)
def test_invalid_voice_clone_prompt_is_rejected(wrong: Any, words: str) -> None:
    for speak in (model("base").generate_voice_clone, model("base").stream_generate_voice_clone):
        with pytest.raises(ValueError, match=words):
            speak("hi", voice_clone_prompt=wrong)


# --- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "frames"),
    [
        ({}, [7]),
        ({"emit_every_frames": 3, "decode_window_frames": 20, "overlap_samples": 0}, [3, 3, 1]),
        ({"first_chunk_emit_every": 1, "first_chunk_frames": 2, "emit_every_frames": 4}, [1, 1, 4, 1]),
        ({"first_chunk_emit_every": 2, "first_chunk_frames": 3, "emit_every_frames": 1}, [2, 2, 1, 1, 1]),
    ],
)
def test_joined_chunks_equal_generate(keywords: dict[str, Any], frames: list[int]) -> None:
    chunks = list(model().stream_generate_custom_voice(TEXTS[0], "ryan", "English", **STREAMED, **keywords))
    assert [len(wave) // 1920 for wave, _ in chunks] == frames
    assert {rate for _, rate in chunks} == {24_000}
    (wave,), _ = model().generate_custom_voice(TEXTS[0], "ryan", "English", non_streaming_mode=False, **GREEDY)
    same(whole(iter(chunks)), wave)


def test_streams_of_every_model_kind_equal_generate() -> None:
    cases = [
        ("base", "voice_clone", {"voice_clone_prompt": prompt()}),
        ("base", "voice_clone", {"voice_clone_prompt": prompt(False)}),
        ("voice_design", "voice_design", {"instruct": "a calm voice"}),
        ("custom_voice", "custom_voice", {"speaker": "dylan", "instruct": "slowly"}),
    ]
    for kind, name, voice in cases:
        (wave,), _ = getattr(model(kind), f"generate_{name}")(TEXTS[1], non_streaming_mode=False, **voice, **GREEDY)
        same(whole(getattr(model(kind), f"stream_generate_{name}")(TEXTS[1], **voice, **STREAMED)), wave)
        same(whole(model(kind).stream_generate_pcm(TEXTS[1], **voice, **STREAMED)), wave)


def test_max_frames_limits_frames() -> None:
    sampled = {"do_sample": False, "subtalker_dosample": False}
    assert len(whole(model().stream_generate_custom_voice(TEXTS[1], "ryan", max_frames=9, **sampled))) == 9 * 1920


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_stream_is_independent_of_text_fragments(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    same(whole(model().stream_generate_custom_voice(iter(pieces), "ryan", **STREAMED)), streamed(text))


def test_stream_requests_text_only_when_needed() -> None:
    asked: list[str] = []

    def pieces() -> Iterator[str]:
        for word in ("one, ", "two, ", "three, ", "four, ", "five, ", "six"):
            asked.append(word)
            yield word

    stream = model().stream_generate_custom_voice(pieces(), "ryan", emit_every_frames=1, **STREAMED)
    assert asked == []
    next(stream)
    assert 1 <= len(asked) < 4
    stream.close()


def test_text_appended_during_a_step_is_read_before_more_is_requested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While another thread drives. Who asks again at once waits for the author, and not for the speech that is made."""
    speaker = model()
    shared, step = speaker.engine, Engine.step
    job = next(shared._numbers)
    shared._submit(job, GenerationRequest(speaker._planner.custom_voice("ryan")))
    shared._append_text(job, "hello world, ")
    for _ in range(40):
        shared.exclusively(lambda: None)  # a turn
    assert job in shared._awaiting_text

    def fed_meanwhile(self: Engine) -> list[Any]:
        made = step(self)
        shared._append_text(job, "and once more ")
        return made

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "step", fed_meanwhile)
        patched.setattr(Engine, "busy", True)
        shared.exclusively(lambda: None)
    assert job not in shared._awaiting_text
    shared._cancel(job)


def test_error_in_text_iterator_ends_stream() -> None:
    def broken() -> Iterator[str]:
        yield "hello world, "
        raise KeyError("author")

    with pytest.raises(KeyError, match="author"):
        whole(model().stream_generate_custom_voice(broken(), "ryan", **STREAMED))
    with pytest.raises(TypeError, match="each piece of text must be a str"):
        whole(model().stream_generate_custom_voice(iter([b"hello"]), "ryan", **STREAMED))


def test_streams_interleave_in_one_thread() -> None:
    streams = [model().stream_generate_custom_voice(text, "ryan", emit_every_frames=2, **STREAMED) for text in TEXTS]
    waves: list[list[np.ndarray]] = [[], [], []]
    for turn in range(3):
        for index, stream in enumerate(streams):
            for _ in range(1 + (turn + index) % 2):
                waves[index] += [wave for wave, _ in [next(stream, (None, 0))] if wave is not None]
    for index, stream in enumerate(streams):
        waves[index] += [wave for wave, _ in stream]
        same(np.concatenate(waves[index]), streamed(TEXTS[index]))


def test_unread_stream_does_not_block_other_calls() -> None:
    one = model(slots=1)
    longer = STREAMED | {"max_new_tokens": 60, "emit_every_frames": 1}
    paused = one.stream_generate_custom_voice(TEXTS[1], "ryan", **longer)
    next(paused)
    waves, _ = one.generate_custom_voice(TEXTS[1], "ryan", **GREEDY)
    assert len(waves[0])
    paused.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ref_spk_embedding": np.zeros(3, np.float32)}, "has 3 numbers"),
        ({"ref_spk_embedding": np.full(64, np.nan, np.float32)}, "has NaN"),
        ({"ref_spk_embedding": np.full(64, -np.inf, np.float32)}, "has NaN"),
        ({"ref_code": np.full((5, 16), 9999)}, "between 0 and 2047"),
        ({"ref_code": np.full((5, 16), -1)}, "between 0 and 2047"),
    ],
)
def test_prompt_of_another_model_is_rejected(change: dict[str, Any], words: str) -> None:
    (item,) = prompt()
    with pytest.raises(ValueError, match=words):
        model("base").generate_voice_clone(TEXTS[0], voice_clone_prompt=[replace(item, **change)], **GREEDY)


def test_streams_and_batches_run_from_many_threads() -> None:
    found: dict[int, np.ndarray] = {}

    def speak(number: int) -> None:
        text = TEXTS[number % 3]
        if number % 4 == 3:
            options = GREEDY | {"non_streaming_mode": False}
            found[number] = model().generate_custom_voice(text, "ryan", **options)[0][0]
        else:
            pieces = iter(text) if number % 2 else text
            found[number] = whole(
                model().stream_generate_custom_voice(pieces, "ryan", emit_every_frames=1 + number % 3, **STREAMED)
            )

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number in range(6):
        same(found[number], streamed(TEXTS[number % 3]))


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_abandoned_stream_frees_its_slot(leave: str) -> None:
    only = model(slots=1)
    stream = only.stream_generate_custom_voice(iter(["hello ", "world, "]), "ryan", emit_every_frames=1, **STREAMED)
    next(stream)
    if leave == "close":
        stream.close()
    else:
        del stream
        gc.collect()
    (wave,), _ = only.generate_custom_voice(TEXTS[1], "ryan", **GREEDY)
    same(wave, model().generate_custom_voice(TEXTS[1], "ryan", **GREEDY)[0][0])


def test_failed_step_ends_only_running_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    options = STREAMED | {"emit_every_frames": 1}
    one, two = (model().stream_generate_custom_voice(text, "ryan", **options) for text in TEXTS[:2])
    next(one)
    next(two)
    with monkeypatch.context() as patched:
        patched.setattr(
            "engine.runtime.model_runner.Runner.advance", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            list(one)
    with pytest.raises(EngineFailure) as failure:
        list(two)
    assert isinstance(failure.value.__cause__, KeyboardInterrupt)
    assert len(model().generate_custom_voice(TEXTS[1], "ryan", **GREEDY)[0][0]) == 7 * 1920


@pytest.mark.parametrize("moment", ["_acquire_turn", "_submit"])
def test_interrupt_between_steps_frees_all_slots(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only = model(slots=1)
    real = getattr(ThreadedEngine, moment)

    def interrupted(*given: Any) -> Any:
        real(*given)
        raise KeyboardInterrupt

    def speaks(found: list[int]) -> None:
        found.append(len(only.generate_custom_voice(TEXTS[1], "ryan", **GREEDY)[0][0]))

    for speak in (only.generate_custom_voice, lambda *given, **how: list(only.stream_generate_custom_voice(*given))):
        with monkeypatch.context() as patched:
            patched.setattr(ThreadedEngine, moment, interrupted)
            with pytest.raises(KeyboardInterrupt):
                speak(TEXTS[0], "ryan", **GREEDY)
        assert only.engine.idle
        found: list[int] = []
        thread = threading.Thread(target=speaks, args=(found,), daemon=True)
        thread.start()
        thread.join(30)
        assert found == [7 * 1920]


def test_generate_raises_when_all_slots_wait_for_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.api.threaded_engine.STALLED_S", 0.05)
    only = model(slots=1)
    waiting = only.stream_generate_custom_voice(iter(["hi, ", "four"]), "ryan", emit_every_frames=1,
                                                **STREAMED | {"max_new_tokens": 30})  # fmt: skip
    next(waiting)
    with pytest.raises(EngineFailure, match="waits for more text"):
        list(only.stream_generate_custom_voice("hello", "ryan", **STREAMED))
    assert len(whole(waiting)) > 0


# --- the codec by itself ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["", "speech_tokenizer"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return engine.Qwen3TTSTokenizer.from_pretrained(str(tiny_directory() / request.param), device="cpu")


def test_tokenizer_decodes_its_own_codes(tokenizer: Any) -> None:
    wave = sound(1.0, 1)
    encoded = tokenizer.encode([wave, wave[:5000]], sr=24_000)
    assert [tuple(each.shape) for each in encoded.audio_codes] == [(13, 16), (3, 16)]
    assert torch.equal(encoded.audio_codes[0], prompt()[0].ref_code)
    waves, rate = tokenizer.decode(encoded)
    assert rate == 24_000
    assert [len(each) for each in waves] == [13 * 1920, 3 * 1920]
    padded = torch.full((1, 20, 16), -1)
    padded[0, :13] = encoded.audio_codes[0]
    same(tokenizer.decode({"audio_codes": padded})[0][0], waves[0])


def test_tokenizer_reports_rates_and_rejects_invalid_input(tokenizer: Any) -> None:
    assert tokenizer.get_model_type() == "qwen3_tts_tokenizer_12hz"
    assert (tokenizer.get_input_sample_rate(), tokenizer.get_output_sample_rate()) == (24_000, 24_000)
    assert (tokenizer.get_encode_downsample_rate(), tokenizer.get_decode_upsample_rate()) == (1920, 1920)
    with pytest.raises(ValueError, match="sr"):
        tokenizer.encode(sound(1))
    with pytest.raises(TypeError, match="decode takes"):
        tokenizer.decode(7)
    assert len(tokenizer.decode([{"audio_codes": codes(1, 2)[0].T}])[0][0]) == 2 * 1920
