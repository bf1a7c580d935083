"""The engine through its own door: jobs together, apart, held, cancelled, streamed in; always the same codes."""

from __future__ import annotations

import json

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core import Engine, Utterance
from engine.emission import EmissionPlan
from engine.prompt import PromptIds, PromptPlanner
from engine.runner import Runner
from engine.sampling_params import resolve_sampling
from engine.sequence import Cut, Guards
from engine.tokens import TextTokenizer
from tests.engine.tiny_models import tiny_directory, tiny_model

SLOTS = 3
TEXTS = ["hello world, 你好 😀", "the washing machine has finished", "naïve 한국어 e\u0301 😀👍🏽"]


class Speaker:
    """An engine over the tiny custom-voice checkpoint, and the greedy or seeded utterances it can make."""

    def __init__(self, slots: int = SLOTS, max_positions: int = 256, guards: Guards | None = None) -> None:
        directory = tiny_directory("custom_voice")
        self.tokenizer = TextTokenizer.from_directory(directory)
        ids = PromptIds.from_config(json.loads((directory / "config.json").read_text()))
        self.planner = PromptPlanner(ids, self.tokenizer.encode)
        self.runner = Runner(tiny_model("custom_voice"), slots, max_positions)
        self.engine = Engine(self.runner, self.tokenizer, guards or Guards())

    def utterance(
        self, speaker: str = "ryan", sizes: tuple[int, ...] = (1, 2), flowing: bool = True, **sampling: object
    ):
        options = {"max_new_tokens": 14, "seed": 7, **sampling}
        plan = self.planner.custom_voice(speaker, "english", flowing=flowing)
        return Utterance(plan, resolve_sampling(options), emission=EmissionPlan(sizes))

    def start(self, job: int, text: str, **options: object) -> None:
        self.engine.add(job, self.utterance(**options))
        self.engine.append_text(job, text)
        self.engine.end_text(job)

    def finish(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Codes and wave of every job, stepped to the end."""
        found: dict[int, list] = {}
        while self.engine.busy:
            for progress in self.engine.step():
                found.setdefault(progress.job, []).append(progress)
        return {
            job: (torch.cat([p.codes for p in parts], -1), torch.cat([p.wave for p in parts]))
            for job, parts in found.items()
        }


def alone(text: str, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    speaker = Speaker()
    speaker.start(1, text, **options)
    return speaker.finish()[1]


def same(ours: tuple, theirs: tuple) -> None:
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].shape == theirs[1].shape
    assert (ours[1] - theirs[1]).abs().max() < 1e-4


def test_codes_become_exactly_their_audio():
    codes, wave = alone(TEXTS[0])
    assert codes.shape == (16, 13)
    assert len(wave) == 1920 * 13
    with torch.inference_mode():
        whole = tiny_model("custom_voice").decoder.decode(codes[None])[0]
    assert (wave - whole).abs().max() < 1e-4


def test_jobs_together_are_as_alone_and_slots_are_used_again():
    speaker = Speaker(slots=2)
    for job, text in enumerate(TEXTS * 2):
        speaker.start(job, text, speaker="vivian" if job % 2 else "ryan")
    together = speaker.finish()
    for job, text in enumerate(TEXTS * 2):
        same(together[job], alone(text, speaker="vivian" if job % 2 else "ryan"))
    assert speaker.engine.jobs == ()


def test_emission_changes_chunks_only():
    sizes = {}
    for plan in ((1,), (1, 2, 4), (25,)):
        speaker = Speaker()
        speaker.start(1, TEXTS[0], sizes=plan)
        sizes[plan] = [p.codes.shape[-1] for _ in range(20) for p in speaker.engine.step()]
        same(alone(TEXTS[0], sizes=plan), alone(TEXTS[0]))
    assert sizes == {(1,): [1] * 13 + [0], (1, 2, 4): [1, 2, 4, 4, 2], (25,): [13]}


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_text_streamed_in_any_pieces_gives_the_same_codes(data):
    text = data.draw(st.sampled_from([*TEXTS, "one two three, 你好吗？四五六 and e\u0301 한국어 " * 2]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    speaker = Speaker()
    speaker.engine.add(1, speaker.utterance())
    parts = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        speaker.engine.append_text(1, text[start:end])
        for _ in range(data.draw(st.integers(0, 3))):
            parts += speaker.engine.step()
    speaker.engine.end_text(1)
    while speaker.engine.busy:
        parts += speaker.engine.step()
    streamed = torch.cat([p.codes for p in parts], -1), torch.cat([p.wave for p in parts])
    same(streamed, alone(text))


def test_a_starving_job_waits_and_others_go_on():
    speaker = Speaker()
    speaker.engine.add(1, speaker.utterance())
    speaker.engine.append_text(1, "hello the")
    speaker.start(2, TEXTS[1])
    done = [p.job for _ in range(30) for p in speaker.engine.step() if p.ended]
    assert done == [2]
    assert not speaker.engine.busy
    speaker.engine.append_text(1, " door")
    speaker.engine.end_text(1)
    assert speaker.engine.busy
    speaker.finish()
    assert speaker.engine.jobs == ()


def test_a_held_job_makes_nothing_until_it_is_let_go():
    speaker = Speaker()
    speaker.start(1, TEXTS[0])
    first = speaker.engine.step()
    speaker.engine.hold(1, True)
    assert not speaker.engine.busy
    assert speaker.engine.step() == []
    speaker.engine.hold(1, False)
    codes = torch.cat([first[0].codes, speaker.finish()[1][0]], -1)
    assert torch.equal(codes, alone(TEXTS[0])[0])


def test_a_cancelled_job_frees_its_slot_and_disturbs_nobody():
    speaker = Speaker(slots=1)
    speaker.start(1, TEXTS[0])
    speaker.start(2, TEXTS[1])
    speaker.engine.step()
    speaker.engine.cancel(1)
    speaker.engine.cancel(99)
    same(speaker.finish()[2], alone(TEXTS[1]))


def test_a_job_without_text_ends_without_audio():
    speaker = Speaker()
    speaker.start(1, "")
    (progress,) = speaker.engine.step()
    assert progress.ended
    assert progress.wave.shape == (0,)
    assert speaker.engine.jobs == ()


def test_runaway_speech_ends_with_a_fade():
    speaker = Speaker(guards=Guards(frames_per_text_id=1, min_frames=6))
    speaker.start(1, "hi", sizes=(25,), max_new_tokens=100)
    parts = []
    while speaker.engine.busy:
        parts += speaker.engine.step()
    assert parts[-1].cut is Cut.TOO_LONG
    wave = torch.cat([p.wave for p in parts])
    assert len(wave) == 1920 * 7
    assert wave[-1].abs() < 1e-6


def test_a_slot_that_is_full_ends_its_job():
    speaker = Speaker(max_positions=24)
    speaker.start(1, "hi there", max_new_tokens=100)
    progress = [p for _ in range(30) for p in speaker.engine.step()][-1]
    assert progress.ended
    assert progress.cut is Cut.TOO_LONG


def test_a_prompt_that_does_not_fit_is_refused():
    speaker = Speaker(max_positions=24)
    speaker.start(1, "many words " * 20, flowing=False)
    (progress,) = speaker.engine.step()
    assert progress.ended
    assert "positions" in progress.failed
    speaker.start(2, "hi", flowing=True)
    assert 2 in speaker.finish()
