"""Qwen's tokenizer from the three files in which Qwen and Eagle publish it.

Byte-level BPE on Qwen2's pieces of NFC-normalised text. It needs the `tokenizers` library, but
neither torch nor transformers. The result saved as `tokenizer.json` gives the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError, MissingDependencyError

VOCABULARY, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
QWEN_FILES = (VOCABULARY, MERGES, ADDED)
PAD = "<|endoftext|>"

# Qwen2's pieces: contractions, words, single digits, punctuation, line breaks, spaces.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def is_qwen_folder(folder: Path) -> bool:
    """Whether a folder holds all three files."""
    return all((folder / name).is_file() for name in QWEN_FILES)


def build_qwen(folder: Path) -> Any:
    """Returns a `tokenizers.Tokenizer` made from the files in `folder`.

    Raises:
        ConfigError: a file is malformed, or added tokens do not follow the vocabulary.
        MissingDependencyError: `tokenizers` is not installed.
    """
    library = tokenizers_library(VOCABULARY)
    vocabulary = _ids(folder / VOCABULARY)
    lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if any(len(merge) != 2 for merge in merges):
        raise ConfigError(f"{folder / MERGES}: expected two pieces per line, got another file")
    tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(PIECES), behavior="isolated"),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    added = sorted(_ids(folder / ADDED).items(), key=lambda item: item[1])
    tokenizer.add_special_tokens(
        [library.AddedToken(text, special=True, normalized=False) for text, _ in added]
    )
    for text, expected in added:
        if tokenizer.token_to_id(text) != expected:
            raise ConfigError(
                f"{folder / ADDED}: expected {text} to have id {tokenizer.token_to_id(text)}, the "
                f"next one after {VOCABULARY}, got {expected}. Are the files of one tokenizer?"
            )
    return tokenizer


def tokenizers_library(file: str) -> ModuleType:
    """Imports `tokenizers`; `file` is what it is needed for."""
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependencyError(
            f"tokenizers is needed to read {file}: pip install tokenizers"
        ) from error
    return tokenizers


def _ids(file: Path) -> Mapping[str, int]:
    try:
        ids = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: expected tokens and their ids ({error})") from error
    if not isinstance(ids, dict) or not all(isinstance(value, int) for value in ids.values()):
        raise ConfigError(f"{file}: expected tokens and their ids, got another file")
    return ids
