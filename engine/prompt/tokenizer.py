"""Text to token ids, whole or as it arrives: a language model's reply can be spoken from its first words on.

The byte-level BPE is built straight from the checkpoint's files with `tokenizers`. That is ten times quicker than
the `transformers` class and cannot have its split pattern exchanged by a loader's guess about the checkpoint.
Unlike the reference, text never turns into control tokens: `<|im_end|>` written by a user is read as plain characters.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word with at most one character before it, mostly the blank
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation, marks, emoji
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The pattern again over one letter per character (see `_Characters.kind`), matching only pieces which no further
# character can change. Every branch but the digit sees the character after the piece.
_CERTAIN = re.compile(
    r"D"
    r"|[SWQO]?L+(?=[^L])"
    r"|S[QO]+(?=[LDSW])|[QO]{2,}(?=[LDSW])|[QO](?=[DSW])"
    r"|S?[QO]+N+(?=[^N])"
    r"|[SWN]*N(?=[SW]*[^SWN])"
    r"|[SW]+(?=[SW][^SWN])"
    r"|W(?=[DQO])|S(?=D)"
)
_CONTRACTION = re.compile(r"'(?:[stmd]|re|ve|ll)", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenizerError(ValueError):
    """The checkpoint's tokenizer files are missing or of another kind than this engine reads."""


class TextTokenizer:
    """The checkpoint's text tokenizer, without any template around the text."""

    def __init__(self, model: BPE, added: dict[str, int]) -> None:
        self._tokenizer = Tokenizer(model)
        self._tokenizer.normalizer = normalizers.NFC()
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self._added = added
        self._characters = _Characters()

    @classmethod
    def from_directory(cls, directory: Path) -> TextTokenizer:
        """Read vocab.json, merges.txt and tokenizer_config.json. Raises TokenizerError."""
        paths = [directory / name for name in ("vocab.json", "merges.txt", "tokenizer_config.json")]
        for path in paths:
            if not path.is_file():
                raise TokenizerError(f"{path} is missing: the checkpoint is incomplete")
        config = _read_config(paths[2])
        try:
            model = BPE.from_file(str(paths[0]), str(paths[1]))
        except Exception as error:  # the library raises bare Exception for every kind of bad file
            raise TokenizerError(f"{directory}: vocab.json and merges.txt cannot be read: {error}") from error
        added = {str(entry["content"]): int(number) for number, entry in config.get("added_tokens_decoder", {}).items()}
        return cls(model, added)

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Lone surrogates, which no UTF-8 can carry, count as U+FFFD."""
        return list(self._tokenizer.encode(_plain(text), add_special_tokens=False).ids)

    def added_id(self, name: str) -> int:
        """The id of a control token such as `<|im_start|>`."""
        if name not in self._added:
            raise TokenizerError(f"tokenizer_config.json names no added token {name}")
        return self._added[name]

    def stream(self) -> TokenStream:
        return TokenStream(self, self._characters)


class TokenStream:
    """Ids of a text that is still being written, each released as soon as nothing that follows can change it.

    Whatever the fragments, the ids put together are those of `encode(text.lstrip())`. A word is released when the
    character after it arrives; the blank stays with the next word. What the split pattern leaves open is held back
    without bound: an unbroken run of letters (Chinese up to its next comma), of punctuation, or of blank lines.
    """

    def __init__(self, tokenizer: TextTokenizer, characters: _Characters) -> None:
        self._tokenizer = tokenizer
        self._characters = characters
        self._settled = ""  # composed (NFC) for good; starts at a piece's start
        self._kinds = ""  # one letter for each settled character
        self._open = ""  # as received: may still compose with what follows
        self._begun = False
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def feed(self, text: str) -> list[int]:
        """Take more text; return the ids that have become certain, often an empty list."""
        if self._ended:
            raise ValueError("text was fed to a token stream that has ended")
        text = text if self._begun else text.lstrip()
        if not text:
            return []
        self._begun = True
        self._settle(_plain(text))
        return [number for piece in self._certain_pieces() for number in self._tokenizer.encode(piece)]

    def end(self) -> list[int]:
        """No more text follows: return all remaining ids. A second call returns an empty list."""
        self._ended = True
        rest = self._settled + self._open
        self._settled = self._kinds = self._open = ""
        return self._tokenizer.encode(rest)

    def _settle(self, text: str) -> None:
        """Move all but the last character that starts afresh, and the marks after it, to the settled text."""
        start = len(self._open)
        self._open += text
        starts = self._characters.starts
        for index in range(len(self._open) - 1, max(start, 1) - 1, -1):
            if starts(self._open[index]):
                composed = self._characters.compose(self._open[:index])
                self._settled += composed
                self._kinds += "".join(map(self._characters.kind, composed))
                self._open = self._open[index:]
                return

    def _certain_pieces(self) -> list[str]:
        """Cut off the settled pieces that stay as they are. Each must be encoded alone: " " + " " would join again."""
        if not self._settled:
            return []
        # Composition never changes a character's kind, so the first open one may serve as look-ahead.
        kinds = self._kinds + self._characters.kind(self._characters.compose(self._open)[0])
        pieces, start, limit = [], 0, len(self._settled)
        while start < limit:
            found = _CONTRACTION.match(self._settled, start) if kinds[start] == "Q" else None
            found = found or _CERTAIN.match(kinds, start)
            if found is None or found.end() > limit:
                break
            pieces.append(self._settled[start : found.end()])
            start = found.end()
        self._settled, self._kinds = self._settled[start:], self._kinds[start:]
        return pieces


class _Characters:
    """What the split pattern and the normaliser think of single characters, asked once each.

    The libraries' own tables answer wherever they can be asked: Python's Unicode version may be older.
    """

    def __init__(self) -> None:
        self._classes = [
            (letter, pre_tokenizers.Split(Regex(pattern), behavior="removed"))
            for letter, pattern in (("L", r"\p{L}"), ("D", r"\p{N}"), ("W", r"\s"))
        ]
        self._nfc = normalizers.NFC()
        self._kinds = {" ": "S", "\r": "N", "\n": "N", "'": "Q"}
        self._starts: dict[str, bool] = {}

    def compose(self, text: str) -> str:
        return str(self._nfc.normalize_str(text))

    def kind(self, character: str) -> str:
        """L letter, D digit, S the blank, N line end, W other white space, Q apostrophe, O anything else."""
        kind = self._kinds.get(character)
        if kind is None:
            matching = (letter for letter, split in self._classes if not split.pre_tokenize_str(character))
            kind = self._kinds[character] = next(matching, "O")
        return kind

    def starts(self, character: str) -> bool:
        """Whether nothing before this character can compose or trade places with it (No, where unsure)."""
        known = self._starts.get(character)
        if known is None:
            known = self._starts[character] = _starts_afresh(unicodedata.normalize("NFD", character)[0])
        return known


def _starts_afresh(character: str) -> bool:
    if unicodedata.category(character) in ("Mn", "Mc", "Me", "Cn"):
        return False  # marks attach; an unassigned character may be a mark in a newer Unicode
    code = ord(character)
    is_hangul_vowel_or_tail = 0x1160 <= code <= 0x11FF
    is_kirat_rai_vowel = 0x16D63 <= code <= 0x16D6A  # letters that compose, from Unicode 16 on
    return not (is_hangul_vowel_or_tail or is_kirat_rai_vowel)


def _plain(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def _read_config(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    """Parse tokenizer_config.json and refuse what would make the ids silently different."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise TokenizerError(f"{path}: the file must be a JSON object")
    kind = config.get("tokenizer_class", "Qwen2Tokenizer")
    if kind not in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        raise TokenizerError(f"{path}: tokenizer_class {kind} is not supported, only Qwen2Tokenizer")
    if config.get("add_prefix_space"):
        raise TokenizerError(f"{path}: add_prefix_space is not supported")
    return dict(config)
