"""The tiny checkpoints themselves: their tokenizer behaves like the real one, their bytes never change."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.model.config import read_config
from engine.testing.tiny_checkpoint import build
from engine.testing.tiny_tokenizer import ADDED_TOKENS, train
from tests.engine.support.tiny_models import tiny_directory


@cache
def tokenizer() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_directory())


def test_build_is_deterministic(tmp_path: Path) -> None:
    files = [file.relative_to(tiny_directory()) for file in tiny_directory().rglob("*") if file.is_file()]
    build(tmp_path)
    for file in files:
        hashes = {hashlib.sha256((root / file).read_bytes()).digest() for root in (tmp_path, tiny_directory())}
        assert len(hashes) == 1, file


def test_added_tokens_follow_the_vocabulary_without_a_gap() -> None:
    vocabulary, rules = train()
    assert 256 + 250 < len(vocabulary) == 256 + len(rules)
    ids = tokenizer().convert_tokens_to_ids(list(ADDED_TOKENS))
    assert ids == list(range(len(vocabulary), len(vocabulary) + 33))
    text = read_config(tiny_directory()).text_ids
    assert ids[1:3] == [text.im_start, text.im_end]
    assert ids[-5:-2] == [text.tts_pad, text.tts_bos, text.tts_eos]


@pytest.mark.parametrize("word", ["assistant", "user", "\n"])
def test_prompt_words_are_single_tokens(word: str) -> None:
    assert len(tokenizer()(word).input_ids) == 1


def test_chat_template_has_the_expected_tokens() -> None:
    ids = tokenizer()("<|im_start|>assistant\nhello world<|im_end|>\n<|im_start|>assistant\n").input_ids
    text = read_config(tiny_directory()).text_ids
    assert ids[:2] == ids[-3:-1] == [text.im_start, text.assistant]
    assert ids[-5] == text.im_end


@pytest.mark.parametrize(
    "text", ["hello world!", "你好，世界。", "😀 👍🏽 naïve café", "добрый вечер", "ಕನ್ನಡ\t\n  x 42"]
)
def test_tokenizer_round_trips_any_text(text: str) -> None:
    ids = tokenizer()(text).input_ids
    assert tokenizer().decode(ids) == text
    assert max(ids) < read_config(tiny_directory()).talker.text_vocab_size


def test_tokenizer_merges_shorten_known_text() -> None:
    text = "今天天气很好 the lights in the living room"
    assert len(tokenizer()(text).input_ids) < len(text.encode()) / 2
