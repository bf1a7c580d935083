"""The tokenizer equals that of transformers, and streamed text has the ids of the whole for any fragments."""

import itertools
import json
import random
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from engine.prompt.tokenizer import _CERTAIN, SPLIT_PATTERN, TextTokenizer, TokenizerError, _Characters

CORPUS = """Hello world, it's the weather report: don't panic, we'll see 12 degrees and they've got rain.
The light in the kitchen is on.  It isn't the user's fault, is it?\n\n- first\n- second\r\n    indented
Guten Tag, schöne Grüße aus München! Ça va très bien, naïve façade. Où êtes-vous? Señor, ¿qué tal?
請你用自然語調，讀一段簡短的中文介紹。今天天气很好，我们出去走走吧。東京の天気は晴れです。がぎぐげご
안녕하세요 오늘 날씨가 좋네요. Привет, как дела? नमस्ते दुनिया สวัสดีชาวโลก مرحبا بالعالم
👩‍👩‍👧‍👦 👍🏽 ❤️ 1234 ½ ² assistant user"""


def learn_merges(pieces: list[list[str]], count: int) -> list[tuple[str, str]]:
    """Plain BPE training: the most frequent neighbours are joined, `count` times."""
    merges = []
    for _ in range(count):
        pairs: dict[tuple[str, str], int] = {}
        for piece in pieces:
            for pair in itertools.pairwise(piece):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for piece in pieces:
            at = 0
            while at < len(piece) - 1:
                if (piece[at], piece[at + 1]) == best:
                    piece[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def write_tokenizer(directory: Path) -> None:
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    spell = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    text = normalizers.NFC().normalize_str(CORPUS)
    merges = learn_merges([list(piece) for piece, _ in spell.pre_tokenize_str(text)], 400)
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = dict.fromkeys([*symbols, *("".join(pair) for pair in merges)])
    vocab = {symbol: number for number, symbol in enumerate(vocab)}
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
    entry = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "added_tokens_decoder": {str(len(vocab) + n): entry | {"content": name} for n, name in enumerate(added)},
    }
    (directory / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    # Without a version here the loader of transformers may exchange the split pattern.
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3_tts", "transformers_version": "4.57.3"}))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> TextTokenizer:
    return TextTokenizer.from_directory(directory)


def streamed(tokenizer: TextTokenizer, fragments: list[str]) -> list[int]:
    stream = tokenizer.stream()
    ids = [number for fragment in fragments for number in stream.feed(fragment)]
    return ids + stream.end()


SPLIT = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")


def pieces(text: str) -> list[str]:
    return [piece for piece, _ in SPLIT.pre_tokenize_str(text)]


# Characters that meet every branch of the pattern and of composition, drawn far more often than the rest of Unicode.
TRICKY = (
    "aAsStTmMdDrReEvVlL'\"’ſéñ  \t\n\r\u00a0\u2028\u3000\u200005½²٣.,;!?()-…<>=/_`~$€"
    "今天気がきはハ゛゜か\u3099\u309a。，、的𠀀\uf900\ufa0e가각한ᄀ하ᅣᆨᆫ\ua960\ud7b0"
    "\u0301\u0300\u0308\u0323\u0327\u0338\u0345\u0344\u0958\u0915\u093c\u09c7\u09be\u0bc6\u0bbe\u0e33\u0e48"
    "👩👧‍️🏽🇩🇪❤⃣\u200d\u200b\ufeff\x00\x1c\x85\ufffd\U00016d67\U000105d2\u1c89"
)
fragments = st.lists(
    st.one_of(
        st.text(alphabet=st.sampled_from(TRICKY), max_size=6),
        st.text(max_size=3),
        st.sampled_from(["'s", "'LL", " don't", "\r\n", "  ", "\n \n", "e\u0301", "it's", "'", "r", "e", " hello"]),
    ),
    max_size=14,
)


@settings(max_examples=600, deadline=None)
@given(fragments)
@example(["'", "s\u0301x"])
@example(["'r", "e", "st"])
@example(["(", "a", ")", "b"])
@example([" ", " ", "\n", " ", "x"])
@example(["e", "\u0301", "\u0323", " "])
@example(["ᄀ", "ᅡ", "ᆨ", "1"])
@example(["a\ud83d", "\ude00b"])
def test_stream_ids_equal_whole_text_for_any_fragments(tokenizer: TextTokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    whole = tokenizer.encode(text.lstrip())
    assert streamed(tokenizer, parts) == whole
    assert streamed(tokenizer, list(text)) == whole


def test_stream_ids_equal_whole_text_for_difficult_characters(tokenizer: TextTokenizer) -> None:
    rng = random.Random(7)
    for _ in range(4000):
        text = "".join(rng.choices(TRICKY, k=rng.randrange(1, 9)))
        assert streamed(tokenizer, list(text)) == tokenizer.encode(text.lstrip()), repr(text)


def test_stream_ids_equal_whole_text_for_long_text(tokenizer: TextTokenizer) -> None:
    rng, text = random.Random(3), unicodedata.normalize("NFD", CORPUS) * 3 + CORPUS
    cuts = sorted(rng.sample(range(len(text)), 400))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert streamed(tokenizer, parts) == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("Hello ", 5),  # the blank that ends a word releases it and stays with the next
        ("Hello wor", 5),
        ("Hello, ", 6),
        ("it's", 2),  # the s might still become ś
        ("it's ", 4),
        ("12", 1),
        ("天気，", 2),
        ("天気，晴", 2),  # the comma may be the single character before a word
        ("天気，晴れ。", 5),
        ("a\n", 1),
        ("a\n\n", 1),
        ("a\n\nb", 3),
        ("a    b", 4),
        ("Hello", 0),
        ("a.", 1),
        ("a. b", 2),
        ("wow!!! ", 6),
    ],
)
def test_stream_releases_ids_as_early_as_possible(tokenizer: TextTokenizer, text: str, length: int) -> None:
    stream = tokenizer.stream()
    released = [number for character in text for number in stream.feed(character)]
    assert released == tokenizer.encode(text[:length])


def test_stream_withholds_at_most_one_word_of_prose(tokenizer: TextTokenizer) -> None:
    """No more than the running word and one look-ahead character wait at any time."""
    stream, text = tokenizer.stream(), "The quick brown fox isn't lazy: it jumps over 12 dogs. And then?"
    for character in text:
        stream.feed(character)
        waiting = stream._settled + stream._open
        assert len(pieces(waiting)) <= 2
        assert len(waiting) <= 8


def test_certain_pieces_are_unchanged_by_any_continuation() -> None:
    """Every prefix over seven representatives: what is called certain survives every continuation of length two."""
    characters = {"L": "a", "D": "1", "S": " ", "W": "\t", "N": "\n", "Q": "'", "O": "!"}
    tails = ["".join(pair) for pair in itertools.product(characters.values(), repeat=2)]
    for size in (2, 3, 4):
        for kinds in itertools.product(characters, repeat=size):
            found = _CERTAIN.match("".join(kinds))
            if found is None or found.end() >= size:
                continue
            text = "".join(characters[kind] for kind in kinds)
            firsts = {pieces(text + tail)[0] for tail in tails}
            assert firsts == {text[: found.end()]}, repr(text)


def test_composition_rules_hold_for_all_of_unicode() -> None:
    """No second half of a composition starts afresh, and composing keeps a character's kind: all of Unicode."""
    characters = _Characters()
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code))
        if not parts or parts.startswith("<"):
            continue
        first, *rest = (chr(int(part, 16)) for part in parts.split())
        assert characters.kind(first) == characters.kind(chr(code)), hex(code)
        if unicodedata.normalize("NFC", chr(code)) == chr(code):
            assert not any(characters.starts(second) for second in rest), hex(code)


def test_tokenizer_equals_transformers(directory: Path, tokenizer: TextTokenizer) -> None:
    theirs = pytest.importorskip("transformers").Qwen2Tokenizer.from_pretrained(directory)
    for text in (CORPUS, unicodedata.normalize("NFD", CORPUS), "", " ", "\n\n  a", "'ſx 'LLy"):
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.added_id("<|im_start|>") == theirs.convert_tokens_to_ids("<|im_start|>")
    # In place: the text between the template's tokens is cut as if it stood alone.
    template = "<|im_start|>assistant\n{}<|im_end|>\n"
    for text in ("Hello world", "  two blanks", "ends with blanks  ", "\u0301mark", "ends with a line\n"):
        ids = theirs(template.format(text), add_special_tokens=False)["input_ids"]
        role = [tokenizer.added_id("<|im_start|>"), *tokenizer.encode("assistant\n")]
        assert ids == [*role, *tokenizer.encode(text), tokenizer.added_id("<|im_end|>"), *tokenizer.encode("\n")]


def test_text_cannot_produce_control_tokens(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("<|im_end|><think>")
    assert len(ids) > 2
    assert tokenizer.added_id("<|im_end|>") not in ids


def test_stream_end_is_final_and_repeatable(tokenizer: TextTokenizer) -> None:
    stream = tokenizer.stream()
    assert stream.feed("   \n") == []
    assert stream.feed("Hi") == []
    assert stream.end() == tokenizer.encode("Hi")
    assert stream.end() == []
    with pytest.raises(ValueError, match="has ended"):
        stream.feed("more")


def test_from_directory_names_missing_or_invalid_file(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"vocab\.json is missing"):
        TextTokenizer.from_directory(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    config = tmp_path / "tokenizer_config.json"
    config.write_text("{")
    with pytest.raises(TokenizerError, match="not JSON"):
        TextTokenizer.from_directory(tmp_path)
    config.write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(TokenizerError, match="LlamaTokenizer"):
        TextTokenizer.from_directory(tmp_path)
    config.write_text("{}")
    (tmp_path / "merges.txt").write_text("broken line of four words\n")
    with pytest.raises(TokenizerError, match="cannot be read"):
        TextTokenizer.from_directory(tmp_path)
