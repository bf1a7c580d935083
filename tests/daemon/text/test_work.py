"""The work for a text, counted in steps of regular expressions, never in seconds."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwentts_daemon.text import characters, markdown, segmenter
from tests.support.regex_steps import count_steps

STEPS_PER_CHARACTER = 1_000
"""English prose needs 45, the worst text known 460; one quadratic expression over a segment of 400 needs 30,000."""
UNITS = [
    "😀", "❤️", "👨‍👩‍👧", "🇩🇪", "👍🏽", "1️⃣", "\u200d", "http://a.b/", "[a](b)", "[a](b)http://", "http://(", "(", "[",
    "![", "](", "]((", "<", "<a ", "<b>", "**", "_", "`", "~", "#", "&amp", "\\", "ht", ".", ")", "。", "“。", "!",
    "a.", "| ", "- ", ">", "=", "[^1]", "[a]:", '"', "<!--", "a@b", "\u0301", " ", "\n",
]  # fmt: skip
EDGES = ["", "b", "1", " ", "\n", "b\n\n", "(", ")"]


@pytest.fixture(scope="module")
def work():
    """Return a function that counts the steps for a text."""
    with pytest.MonkeyPatch.context() as patch:
        steps = count_steps([characters, markdown, segmenter], patch.setattr)

        def count(text):
            steps.count, steps.limit = 0, STEPS_PER_CHARACTER * len(text)
            limit = sys.getrecursionlimit()
            sys.setrecursionlimit(100_000)  # the counting matcher recurses where the real engine has an explicit stack
            try:
                whole = segmenter.Segmenter(segmenter.CleaningOptions())
                whole.feed(text)
                whole.end()
            finally:
                sys.setrecursionlimit(limit)
            return steps.count

        yield count


def runs(unit, edge, length):
    """Return `length` characters of runs of `unit`, each about as long as a segment, between edges."""
    run = edge + unit * max(1, 390 // len(unit)) + edge
    return (run * (length // len(run) + 1))[:length]


def check(work, unit, edge):
    short, long = work(runs(unit, edge, 400)), work(runs(unit, edge, 1_600))
    assert long <= 5 * short + 20_000


@pytest.mark.parametrize("unit", UNITS)
def test_segmenter_work_is_linear_for_repeated_unit(work, unit):
    check(work, unit, "b")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(UNITS), min_size=1, max_size=3).map("".join), st.sampled_from(EDGES))
def test_segmenter_work_is_linear_for_mixed_units(work, unit, edge):
    check(work, unit, edge)


def test_regex_step_counter_counts_backtracking(work):
    prose = work("The kettle has boiled, and it is late. " * 10)
    assert 10 * 390 < prose < 100 * 390
