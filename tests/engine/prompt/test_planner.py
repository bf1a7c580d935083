"""Prompts position by position: each mode spelt out, a streamed text equal to the whole one, keys that never mix."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.prompt.languages import PromptError, resolve_language, tag_of
from engine.prompt.planner import (
    CloneVoice,
    Codec,
    Position,
    Prompt,
    PromptIds,
    PromptPlan,
    PromptPlanner,
    Reference,
    ReferenceFrame,
    SpeakerVector,
    content_digest,
)
from tests.engine.support.prompts import BOS, EOS, LANGUAGES, PAD, planner

ROLE = [(151644, None), (77091, None), (198, None)]
XVEC = SpeakerVector()


def pairs(positions: tuple[Position, ...]) -> list[tuple[int, Codec | None]]:
    return [(position.text, position.codec) for position in positions]


def frames(count: int) -> list[ReferenceFrame]:
    return [ReferenceFrame(index) for index in range(count)]


def test_custom_voice_with_streamed_text_takes_ten_positions() -> None:
    plan = planner().custom_voice("RYAN", "English")
    assert (plan.ids_needed, plan.ready(0, False), plan.ready(1, False)) == (1, False, True)
    prompt = plan.begin([10, 11, 12], True)
    assert pairs(prompt.prefix) == [*ROLE, *((PAD, code) for code in (2154, 2156, 2050, 2157, 3061)), (BOS, 2148)]
    assert pairs(prompt.body) == [(10, 2149)]
    assert (prompt.trailing, prompt.ended, len(prompt.head)) == ((11, 12, EOS), True, 10)


def test_custom_voice_with_whole_text() -> None:
    plan = planner().custom_voice("ryan", None, streaming=False)
    assert not plan.ready(99, False)
    prompt = plan.begin([10, 11], True)
    assert pairs(prompt.prefix) == [*ROLE, *((PAD, code) for code in (2155, 2156, 2157, 3061)), (BOS, 2148)]
    assert pairs(prompt.body) == [(10, 2148), (11, 2148), (EOS, 2148), (PAD, 2149)]
    assert prompt.trailing == ()


def test_instruct_precedes_the_prompt() -> None:
    instruct = [(151644, None), (872, None), (198, None), (104, None), (105, None), (151645, None), (198, None)]
    for plan in (planner().custom_voice("ryan", "de", " hi"), planner("voice_design").voice_design("hi", "de")):
        assert pairs(plan.prefix)[:10] == [*instruct, *ROLE]
    small = planner(size="0b6")
    assert not small.instructable
    assert small.custom_voice("ryan", "de", "hi") == small.custom_voice("ryan", "de")
    assert pairs(planner("voice_design").voice_design("", "de").prefix)[0] == ROLE[0]


@pytest.mark.parametrize(
    ("speaker", "language", "language_id"),
    [
        ("dylan", None, 2074),
        ("dylan", "zh", 2074),
        ("eric", "Chinese", 2062),
        ("eric", "en", 2050),
        ("ryan", "zh", 2055),
    ],
)
def test_custom_voice_uses_dialect_of_the_speaker(speaker: str, language: str | None, language_id: int) -> None:
    assert (PAD, language_id) in pairs(planner().custom_voice(speaker, language).prefix)


def test_clone_from_x_vector_alone() -> None:
    prompt = planner("base").clone(CloneVoice("voice-1"), "de").begin([10], True)
    assert pairs(prompt.prefix) == [*ROLE, *((PAD, code) for code in (2154, 2156, 2053, 2157, XVEC)), (BOS, 2148)]
    assert (pairs(prompt.body), prompt.trailing) == ([(10, 2149)], (EOS,))


def in_context(text: str, count: int, streaming: bool = True) -> PromptPlan:
    voice = CloneVoice("voice-1", Reference(text, count, "codes-1"))
    return planner("base").clone(voice, None, streaming=streaming)


def test_in_context_clone_with_text_longer_than_the_reference() -> None:
    plan = in_context("\nab", 3)
    assert plan.ids_needed == 2
    prompt = plan.begin([10, 11, 12], True)
    assert pairs(prompt.prefix)[-2:] == [(97, 2149), (98, ReferenceFrame(0))]
    assert pairs(prompt.body) == [(10, ReferenceFrame(1)), (11, ReferenceFrame(2))]
    assert prompt.trailing == (12, EOS)


def test_in_context_clone_with_text_shorter_than_the_reference() -> None:
    prompt = in_context("a", 5).begin([10], True)
    codecs = [2149, *frames(5)]
    assert pairs(prompt.head)[-6:] == list(zip([97, 10, EOS, PAD, PAD, PAD], codecs, strict=True))
    assert (prompt.trailing, prompt.ended) == ((), True)


def test_in_context_clone_with_long_transcript_begins_at_once() -> None:
    plan = in_context("abcde", 2)
    assert plan.ids_needed == 1
    prompt = plan.begin([10], False)
    assert pairs(prompt.body) == [(99, ReferenceFrame(1))]  # the last position is never part of the prefix
    assert (prompt.trailing, prompt.ended) == ((100, 101, 10), False)


def test_in_context_clone_with_the_whole_text() -> None:
    prompt = in_context("ab", 2, streaming=False).begin([10], True)
    assert pairs(prompt.prefix)[-2:] == [(97, 2148), (98, 2148)]
    assert pairs(prompt.body) == [
        (10, 2148),
        (EOS, 2148),
        (PAD, 2149),
        (PAD, ReferenceFrame(0)),
        (PAD, ReferenceFrame(1)),
    ]
    assert prompt.trailing == ()


@given(st.integers(0, 6), st.integers(0, 8), st.lists(st.integers(1, 99), min_size=1, max_size=12), st.data())
def test_streamed_text_has_ids_at_the_positions_of_whole_text(
    words: int, count: int, text: list[int], data: st.DataObject
) -> None:
    """The stream of text ids, prompt and what follows it, does not show when prefill began."""
    plan = in_context("x" * words, count) if words and count else planner("base").clone(CloneVoice("voice-1"))
    assert plan.ids_needed is not None
    whole = plan.begin(text, True)
    known = data.draw(st.integers(0, len(text)))
    if not plan.ready(known, False):
        assert known < plan.ids_needed
        return
    early = plan.begin(text[:known], False)
    assert early.head == whole.head
    assert (*early.trailing, *text[known:], EOS) == whole.trailing
    assert early.prefix_key == whole.prefix_key


@given(st.lists(st.integers(1, 99), min_size=1, max_size=9), st.booleans(), st.integers(0, 5), st.integers(1, 9))
def test_prefix_does_not_depend_on_the_text(text: list[int], streaming: bool, words: int, count: int) -> None:
    plan = in_context("y" * words, count, streaming) if words else planner().custom_voice("ryan", streaming=streaming)
    prompt = plan.begin(text, True)
    assert prompt.prefix == plan.prefix
    assert prompt.body
    # The naive assembly of the specification.
    x, y = [*plan.reference_text, *text, EOS], list(plan.codecs)
    if streaming:
        naive = list(zip((x + [PAD] * len(y))[: len(y)], y, strict=True))
    else:
        naive = [*((one, 2148) for one in x), *((PAD, one) for one in y)]
    assert pairs(prompt.head)[-len(naive) :] == naive
    assert prompt.trailing == (tuple(x[len(y) :]) if streaming else ())


def test_prefix_keys_are_equal_for_equal_embeddings_only() -> None:
    base, custom = planner("base"), planner()
    reference = Reference("ab", 3, "codes-1")
    plans = [
        custom.custom_voice("ryan"),
        custom.custom_voice("eric", "en"),
        custom.custom_voice("ryan", "en"),
        custom.custom_voice("ryan", None, "whisper"),
        base.clone(CloneVoice("voice-1")),
        base.clone(CloneVoice("voice-2")),
        base.clone(CloneVoice("voice-1", reference)),
        base.clone(CloneVoice("voice-1", reference), streaming=False),
        base.clone(CloneVoice("voice-1", replace(reference, digest="codes-2"))),
        base.clone(CloneVoice("voice-1", replace(reference, text="ac"))),
        base.clone(CloneVoice("voice-2", reference)),
    ]
    assert len({plan.prefix_key for plan in plans}) == len(plans)
    assert custom.custom_voice("Ryan", "Auto").prefix_key == plans[0].prefix_key
    assert custom.custom_voice("ryan", streaming=False).prefix_key == plans[0].prefix_key
    assert content_digest(b"a", b"bc") != content_digest(b"ab", b"c")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (None, None),
        ("Auto", None),
        ("", None),
        ("English", "english"),
        ("GERMAN", "german"),
        ("en-US", "english"),
        ("zh_CN", "chinese"),
        ("zh-Hant-TW", "chinese"),
        ("cmn-Hans-CN", "chinese"),
        (" de ", "german"),
    ],
)
def test_resolve_language_accepts_names_and_tags(wanted: str | None, name: str | None) -> None:
    assert resolve_language(wanted, LANGUAGES) == name


def test_tag_of_returns_language_tag() -> None:
    assert [tag_of(name) for name in ("chinese", "german", "beijing_dialect")] == ["zh", "de", None]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planner().custom_voice("rian"), "unknown speaker 'rian', did you mean 'ryan'"),
        (lambda: planner().custom_voice("qqq"), "Valid: dylan, eric, ryan, uncle_fu"),
        (
            lambda: planner().custom_voice("ryan", "englsh"),
            "did you mean 'english'.* Valid: auto, chinese, english, german",
        ),
        (lambda: planner().custom_voice("ryan", "fr-FR"), "unknown language 'fr-FR'"),
        (lambda: planner().custom_voice("ryan", "beijing_dialect"), "choose a speaker"),
        (lambda: planner("base").custom_voice("ryan"), "needs a custom_voice checkpoint, but the loaded one is base"),
        (lambda: planner().voice_design("deep"), "needs a voice_design"),
        (lambda: planner().clone(CloneVoice("v")), "needs a base"),
        (lambda: planner("base").clone(CloneVoice("v"), None, "whisper"), "takes no instruct"),
        (lambda: in_context(" \n", 4), "needs its words"),
        (lambda: in_context("a", 0), "recording is empty"),
        (lambda: planner().custom_voice("ryan").begin([], True), "the text is empty"),
        (lambda: PromptIds.from_config({}), "lacks 'talker_config'"),
        (lambda: PromptPlanner(planner().ids, lambda text: [1, 2]), "must be one id"),
        (lambda: PromptPlanner(planner().ids, lambda text: [1]), "'assistant' is not the id 77091"),
    ],
)
def test_planner_rejects_invalid_speaker_language_and_voice(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PromptError, match=message):
        call()


def test_custom_voice_accepts_display_name_of_speaker() -> None:
    assert planner().custom_voice("Uncle Fu") == planner().custom_voice("uncle_fu")


def test_plans_and_prompts_are_hashable_values() -> None:
    prompt = planner().custom_voice("ryan").begin([1], True)
    assert isinstance(prompt, Prompt)
    assert hash(prompt) == hash(planner().custom_voice("ryan").begin([1], True))


def test_prompt_modules_do_not_import_torch() -> None:
    names = "engine.prompt.tokenizer, engine.prompt.planner, engine.prompt.languages"
    code = f"import sys, {names}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
