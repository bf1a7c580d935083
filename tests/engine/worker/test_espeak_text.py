"""How text is cleaned, cut and split for eSpeak: pure, so without its library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.worker.backends.espeak_text import TextChunk, by_script, clean, cut


@pytest.mark.parametrize(
    ("text", "pieces", "rest"),
    [
        ("Hello there. How are", ["Hello there. "], "How are"),
        ("Hello there.", ["Hello there."], ""),
        ("It costs 3.50, roughly", ["It costs 3.50, "], "roughly"),
        ("approx. five", [], "approx. five"),
        ("On 3. May", [], "On 3. May"),
        ("Really?! Yes", ["Really?! "], "Yes"),
        ("12:30 or 1,000", [], "12:30 or 1,000"),
        ("你好。再", ["你好。"], "再"),
        ("...", [], "..."),
    ],
)
def test_cut_splits_at_certain_ends_of_clauses(text, pieces, rest):
    assert cut(text, ended=False) == (pieces, rest)
    assert cut(text, ended=True) == (pieces + ([rest] if rest else []), "")


def test_cut_splits_long_clause_at_a_space_and_adds_a_comma():
    pieces, _ = cut("word " * 100, ended=True)
    assert len(pieces) == 4
    assert all(piece.endswith("word, ") for piece in pieces[:-1])


@given(st.lists(st.text(alphabet="aZ5.,;?!… \n'\"()-。日é\u0301я", max_size=80)))
def test_cut_keeps_all_text_for_any_fragments(parts):
    pieces, rest = [], ""
    for part in parts:
        complete, rest = cut(rest + part, ended=False)
        pieces += complete
    pieces += cut(rest, ended=True)[0]
    written = by_script_all(pieces)
    assert kept("".join(pieces)) == kept("".join(parts)) == kept("".join(written))
    assert all(len(piece.rstrip()) <= 162 or set(piece) <= set(".,;?!… \n") for piece in pieces)


def by_script_all(pieces):
    return [part.text for piece in pieces for part in by_script(piece, "Latin")]


def kept(text):
    return [char for char in text if char not in ", \n"]


def test_by_script_assigns_runs_of_a_script_to_a_voice():
    assert by_script("Now “Дорога” by Кино, π.", "") == [
        TextChunk("Now “, ", "", pause=False),
        TextChunk("Дорога”, ", "ru", pause=False),
        TextChunk("by, ", "", pause=False),
        TextChunk("Кино, ", "ru", pause=False),
        TextChunk("π.", ""),
    ]
    assert by_script("Привет, «мир».", "Cyrillic") == [TextChunk("Привет, «мир».")]
    assert by_script("«Привет».", "") == [TextChunk("«Привет».", "ru")]


@given(st.text())
def test_clean_returns_encodable_text_and_is_idempotent(text):
    cleaned = clean(text)
    assert b"\0" not in cleaned.encode()
    assert clean(cleaned) == cleaned
