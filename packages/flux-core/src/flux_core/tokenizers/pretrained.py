"""PaliGemma's and Qwen's tokenizers, read from a local path."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingDependencyError
from .protocol import BOS_ID, PAD_ID, UNK_ID, Tokenizer
from .qwen import PAD, QWEN_FILES, build_qwen, is_qwen_folder, tokenizers_library

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")


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
        file = find_tokenizer_file(path)
        if file.is_dir():
            return _load_qwen(file)
        return _load_sentencepiece(file) if file.suffix == ".model" else _load_json(file)


def find_tokenizer_file(path: Path) -> Path:
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
