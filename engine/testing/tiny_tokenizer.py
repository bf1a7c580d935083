"""A real byte-level BPE of some hundred merges, trained here, in the files of the published tokenizer.

Small enough for a test, rich enough to break wrong code: multi-byte characters, CJK, emoji, merges with and without a
leading blank, and the 33 added tokens in their real order right behind the vocabulary.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

ADDED_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
    "<|audio_pad|>",
]
PLAIN_ADDED = re.compile(r"</?(tool_call|tool_response|think)>|<\|(fim_\w+|repo_name|file_sep)\|>")
WHOLE_WORDS = ("assistant", "user")
CORPUS = (
    "the lights in the living room are on and the door is open, hello world! good morning, it is seven o'clock and "
    "the weather today will be sunny with a light wind from the north. please close the window before you leave the "
    "house. your washing machine has finished, and the timer for the tea has ended. there is somebody at the front "
    "door. speak slowly and calmly, as if you were reading something to a child. what time is it? it's 21 degrees. "
    "die Haustür ist offen, bitte schließen. Guten Morgen, heute wird es schön und später kühl. les lumières sont "
    "allumées dans la cuisine, très bien. la puerta está abierta, ¿verdad? mañana por la mañana. "
    "你好，世界。今天天气很好，客厅的灯已经打开。请关上窗户。こんにちは、今日はいい天気です。電気をつけてください。"
    "안녕하세요, 오늘 날씨가 좋습니다. добрый вечер, дверь открыта. 😀 🎉 👍🏽 naïve café — “quoted” … "
)
MERGES = 320


def byte_symbols() -> list[str]:
    """A printable character for each byte value, as byte-level vocabularies spell them."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(value) if value in printable else chr(next(stand_ins)) for value in range(256)]


def _spelled(word: str, symbols: list[str]) -> tuple[str, ...]:
    return tuple(symbols[value] for value in word.encode())


def _joined(word: tuple[str, ...], left: str, right: str) -> tuple[str, ...]:
    result: list[str] = []
    for symbol in word:
        if result and result[-1] == left and symbol == right:
            result[-1] = left + right
        else:
            result.append(symbol)
    return tuple(result)


def _word_merges(symbols: list[str]) -> list[tuple[str, str]]:
    """Rules that make each of WHOLE_WORDS one token, left to right, ahead of anything the corpus teaches."""
    rules: list[tuple[str, str]] = []
    for word in WHOLE_WORDS:
        first, *rest = _spelled(word, symbols)
        for symbol in rest:
            if (first, symbol) not in rules:
                rules.append((first, symbol))
            first += symbol
    return rules


def train() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merge rules: the most frequent pair wins, the alphabetically first among equals."""
    symbols = byte_symbols()
    words = Counter(_spelled(word, symbols) for word in re.findall(r" ?[^\W\d_]+|\d| ?[^\w\s]+|\s", CORPUS))
    rules = _word_merges(symbols)
    for left, right in rules:
        words = Counter({_joined(word, left, right): count for word, count in words.items()})
    while len(rules) < MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        rules.append((left, right))
        words = Counter({_joined(word, left, right): count for word, count in words.items()})
    vocabulary = {symbol: index for index, symbol in enumerate(sorted(symbols))}
    for left, right in rules:
        vocabulary.setdefault(left + right, len(vocabulary))
    return vocabulary, rules


def write_tokenizer(directory: Path) -> dict[str, int]:
    """Write vocab.json, merges.txt and tokenizer_config.json; return every token's id, added ones included."""
    vocabulary, rules = train()
    ids = vocabulary | {token: len(vocabulary) + place for place, token in enumerate(ADDED_TOKENS)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in rules)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = _tokenizer_config(ids)
    (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")
    return ids


def _tokenizer_config(ids: dict[str, int]) -> dict[str, object]:
    added = {
        str(ids[token]): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
            "special": PLAIN_ADDED.fullmatch(token) is None,
        }
        for token in ADDED_TOKENS
    }  # fmt: skip
    return {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added, "bos_token": None,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
        "model_max_length": 131072, "pad_token": "<|endoftext|>", "processor_class": "Qwen3TTSProcessor",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }  # fmt: skip


def text_ids(ids: dict[str, int]) -> dict[str, int]:
    """The text ids that config.json names."""
    return {
        "im_start_token_id": ids["<|im_start|>"], "im_end_token_id": ids["<|im_end|>"],
        "assistant_token_id": ids["assistant"], "tts_pad_token_id": ids["<tts_pad>"],
        "tts_bos_token_id": ids["<tts_text_bos>"], "tts_eos_token_id": ids["<tts_text_eod>"],
    }  # fmt: skip
