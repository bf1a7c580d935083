import logging

import pytest

from qwentts_daemon.text.replacements import Replacer, rule
from qwentts_daemon.text.segmenter import CleaningOptions, Segmenter

CATASTROPHIC = rule(r"(?:a|a|ab)+$", "")
SLOW_TEXT = "a" * 40 + "b."


def test_replacement_rules_apply_in_order():
    replacer = Replacer([rule("a", "b"), rule("b+", "c")])
    assert replacer.apply("aab") == "c"


def test_replacement_rule_over_budget_is_dropped_once_per_text(caplog):
    replacer = Replacer([CATASTROPHIC, rule("x", "y")], budget_s=0.05)
    with caplog.at_level(logging.WARNING):
        assert replacer.apply(SLOW_TEXT) == SLOW_TEXT
        assert replacer.apply("x") == "x"
        assert replacer.apply(SLOW_TEXT) == SLOW_TEXT
    (record,) = caplog.records
    assert "text.replacements: the rule" in record.getMessage()


@pytest.mark.timeout(60)
def test_text_with_catastrophic_replacement_rule_is_spoken():
    segmenter = Segmenter(CleaningOptions(replacements=(CATASTROPHIC,)))
    assert segmenter.feed(f"{SLOW_TEXT} Then more.") + segmenter.end() == [SLOW_TEXT, "Then more."]
