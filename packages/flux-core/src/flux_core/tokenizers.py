"""Tokenizers: one of bytes, which needs no file, and PaliGemma's and Qwen's, from a local path.

A tokenizer is a frozen dataclass, so that configs, checkpoints and bundles store it like any other
component; `load` reads its files from disk.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .errors import ConfigError, MissingDependencyError
from .qwen_tokenizer import PAD, QWEN_FILES, build_qwen, is_qwen_folder, tokenizers_library

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
"""Special ids, the same in Gemma's vocabulary and in the byte tokenizer."""

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")
BYTE_TOKENIZER_FILE = "byte_tokenizer.json"


class Tokenizer(Protocol):
    """Text to ids."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int:
        """The id in places without a token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns BOS, if the vocabulary has one, and the ids of `text`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`, without special ids."""
        ...


@dataclass(frozen=True, kw_only=True)
class ByteTokenizer:
    """UTF-8 bytes, with one id for each state bin and for each of `words`.

    Ids: 4 special, 256 bytes, `number_tables` tables of the numbers ` -1` .. ` 255`, the words. The
    i-th number of a text uses table i (numbers beyond the last table use the last one), so that a
    token of a pi0.5 state identifies the joint as well as its position. Every text can be encoded,
    and `decode` reverses it.

    Attributes:
        words: pieces of text that become one token each; if several match, the longest is used.
        number_tables: one per state dimension, or 1 if a number's position does not matter.
    """

    words: tuple[str, ...] = ()
    number_tables: int = 1

    def __post_init__(self) -> None:
        if self.number_tables < 1:
            raise ConfigError(f"number_tables: expected at least 1, got {self.number_tables}")
        if "" in self.words or len(set(self.words)) < len(self.words):
            raise ConfigError(f"words: expected different, non-empty texts, got {self.words}")

    @property
    def vocab_size(self) -> int:
        return self._first_word + len(self.words)

    @property
    def pad_id(self) -> int:
        return PAD_ID

    @property
    def _first_word(self) -> int:
        return FIRST_NUMBER_ID + self.number_tables * NUMBERS_PER_TABLE

    def load(self, directory: Path | None = None) -> ByteTokenizer:
        """Returns itself: there is nothing to read."""
        return self

    def encode(self, text: str) -> list[int]:
        """Returns BOS, then the ids of `text`."""
        ids = [BOS_ID]
        start = numbers = 0
        for match in _pieces(self.words).finditer(text):
            ids += _byte_ids(text[start : match.start()])
            start = match.end()
            if match["number"] is None:
                ids.append(self._first_word + self.words.index(match[0]))
                continue
            table = min(numbers, self.number_tables - 1)
            ids.append(FIRST_NUMBER_ID + table * NUMBERS_PER_TABLE + 1 + int(match["number"]))
            numbers += 1
        return ids + _byte_ids(text[start:])

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`, without special ids."""
        data = bytearray()
        for token in ids:
            if _FIRST_BYTE_ID <= token < FIRST_NUMBER_ID:
                data.append(token - _FIRST_BYTE_ID)
            elif FIRST_NUMBER_ID <= token < self._first_word:
                data += f" {(token - FIRST_NUMBER_ID) % NUMBERS_PER_TABLE - 1}".encode()
            elif self._first_word <= token < self.vocab_size:
                data += self.words[token - self._first_word].encode()
        return data.decode(errors="replace")


_FIRST_BYTE_ID = 4
FIRST_NUMBER_ID = _FIRST_BYTE_ID + 256
NUMBERS_PER_TABLE = 257
"""The state's bins: -1 (below the range) to 255."""

# A space and a canonical number -1..255, not followed by another digit.
_NUMBER = r" (?P<number>-1|25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])(?![0-9])"


@functools.lru_cache(maxsize=16)
def _pieces(words: tuple[str, ...]) -> re.Pattern[str]:
    """Matches a word or a number."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, longest_first), _NUMBER]))


def _byte_ids(text: str) -> list[int]:
    return [_FIRST_BYTE_ID + byte for byte in text.encode()]


@dataclass(frozen=True, kw_only=True)
class PretrainedTokenizer:
    """PaliGemma's SentencePiece vocabulary or Qwen's BPE from a local file or directory.

    `model_path` may be omitted if the tokenizer is stored beside a checkpoint or in a bundle.
    """

    model_path: str | None = None

    def load(self, directory: Path | None = None) -> Tokenizer:
        """Reads `tokenizer.model`, `tokenizer.json`, or Qwen's three files.

        Args:
            directory: where to look when `model_path` is not given.
        """
        if self.model_path is None and directory is None:
            raise ConfigError("tokenizer.model_path: expected a local file or directory, got None")
        path = Path(self.model_path) if self.model_path is not None else Path(str(directory))
        file = _find_tokenizer_file(path)
        if file.is_dir():
            return _load_qwen(file)
        return _load_sentencepiece(file) if file.suffix == ".model" else _load_json(file)


def _find_tokenizer_file(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / name for name in TOKENIZER_FILES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if is_qwen_folder(path):
        return path
    raise ConfigError(
        f"tokenizer.model_path: expected {' or '.join(TOKENIZER_FILES)} at {str(path)!r}, or "
        f"Qwen's {', '.join(QWEN_FILES)}, got none of them. Download the tokenizer there first"
    )


class _SentencePieceTokenizer:
    pad_id = PAD_ID

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.vocab_size = int(processor.vocab_size())

    def encode(self, text: str) -> list[int]:
        return [BOS_ID, *self._processor.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode([i for i in ids if i > UNK_ID]))


class _JsonTokenizer:
    pad_id = PAD_ID

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = int(tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [BOS_ID, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([i for i in ids if i > UNK_ID]))


class _QwenTokenizer:
    """Without BOS; special tokens in the text are recognised as such."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = int(tokenizer.get_vocab_size())
        self.pad_id = int(tokenizer.token_to_id(PAD))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))


@functools.lru_cache(maxsize=4)
def _load_sentencepiece(file: Path) -> Tokenizer:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingDependencyError(
            "sentencepiece is needed to read tokenizer.model: pip install sentencepiece"
        ) from error
    try:
        return _SentencePieceTokenizer(sentencepiece.SentencePieceProcessor(model_file=str(file)))
    except (RuntimeError, OSError) as error:
        raise _not_a_tokenizer(file, "SentencePiece vocabulary", error) from error


@functools.lru_cache(maxsize=4)
def _load_json(file: Path) -> Tokenizer:
    library = tokenizers_library("tokenizer.json")
    try:
        tokenizer = library.Tokenizer.from_file(str(file))
    # The library raises plain `Exception`.
    except Exception as error:
        raise _not_a_tokenizer(file, "tokenizer of the tokenizers library", error) from error
    is_qwen = tokenizer.token_to_id(PAD) is not None
    return _QwenTokenizer(tokenizer) if is_qwen else _JsonTokenizer(tokenizer)


@functools.lru_cache(maxsize=4)
def _load_qwen(folder: Path) -> Tokenizer:
    return _QwenTokenizer(build_qwen(folder))


def _not_a_tokenizer(file: Path, expected: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:120]
    return ConfigError(f"{file}: expected a {expected}, got something else ({reason})")


def save_tokenizer(config: ByteTokenizer | PretrainedTokenizer, directory: Path) -> None:
    """Writes the files that `config` needs into `directory`, so that it is self-contained."""
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(config, ByteTokenizer):
        (directory / BYTE_TOKENIZER_FILE).write_text(
            json.dumps({"type": "ByteTokenizer", **dataclasses.asdict(config)}) + "\n"
        )
        return
    if config.model_path is None:
        raise ConfigError("tokenizer.model_path: expected the tokenizer to save, got None")
    source = _find_tokenizer_file(Path(config.model_path))
    if source.is_dir():
        build_qwen(source).save(str(directory / "tokenizer.json"), pretty=False)
        return
    (directory / ("tokenizer" + source.suffix)).write_bytes(source.read_bytes())
