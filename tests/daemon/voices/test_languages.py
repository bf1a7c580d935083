"""Every form in which people write a language finds the voice that speaks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwentts_daemon.voices.languages import distance, match_language

ESPEAK = (
    "da", "de", "en-US", "en-GB", "es-ES", "es-419", "fr-FR", "he", "hr", "id", "nb", "pl", "pt-PT", "pt-BR", "ro",
    "ru", "sr", "sv", "yue", "zh-CN",
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("no", "nb"), ("nn", "nb"), ("no-NO", "nb"), ("nb_NO", "nb"), ("NO", "nb"),
        ("iw", "he"), ("in", "id"), ("bs", "hr"),
        ("cmn", "zh-CN"), ("cmn-Hans-CN", "zh-CN"), ("zh", "zh-CN"), ("zh-Hans", "zh-CN"), ("zh_TW", "zh-CN"),
        ("zh-HK", "yue"), ("zh-Hant-HK", "yue"), ("zh-yue", "yue"), ("yue-HK", "yue"),
        ("es", "es-ES"), ("es-MX", "es-419"), ("es_AR", "es-419"), ("es-419", "es-419"), ("es-ES", "es-ES"),
        ("en", "en-US"), ("en_US", "en-US"), ("en-AU", "en-GB"), ("en-IE", "en-GB"), ("en-CA", "en-US"),
        ("pt", "pt-PT"), ("pt_BR", "pt-BR"), ("pt-AO", "pt-PT"), ("fr-CA", "fr-FR"), ("sr-Latn", "sr"),
        ("sr-Latn-RS", "sr"),
        ("mo", "ro"), ("de-AT", "de"), ("de-x-private", "de"), ("ja", None), ("", None), ("-", None), ("english", None),
    ],
)  # fmt: skip
def test_match_language_finds_the_nearest_voice(wanted, found):
    assert match_language(wanted, ESPEAK) == found


def test_match_language_prefers_the_language_to_its_neighbour():
    assert match_language("yue", ("zh-CN", "yue")) == "yue"
    assert match_language("yue", ("zh-CN", "en")) == "zh-CN"
    assert match_language("zh", ("yue",)) is None


def test_match_language_takes_the_first_of_equals():
    assert match_language("en", ("en-GB", "en-US", "de")) == "en-GB"
    assert match_language("EN_us", ("en-GB", "en-US", "de")) == "en-US"


@given(st.text(max_size=20), st.lists(st.text(max_size=12), max_size=4))
def test_match_language_returns_an_offered_tag_at_the_smallest_distance(wanted, offered):
    found = match_language(wanted, offered)
    assert (found is None) == (distance(wanted, offered) is None)
    assert found is None or (found in offered and distance(wanted, [found]) == distance(wanted, offered))
