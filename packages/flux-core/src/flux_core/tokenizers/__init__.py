"""Tokenizers: one of bytes, which needs no file, and PaliGemma's and Qwen's, from a local path.

A tokenizer is a frozen dataclass, so that configs, checkpoints and bundles store it like any other
component; `load` reads its files from disk.
"""

from .byte_tokenizer import FIRST_NUMBER_ID, NUMBERS_PER_TABLE, ByteTokenizer
from .pretrained import TOKENIZER_FILES, PretrainedTokenizer
from .protocol import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Tokenizer
from .saving import BYTE_TOKENIZER_FILE, save_tokenizer

__all__ = [
    "BOS_ID",
    "BYTE_TOKENIZER_FILE",
    "EOS_ID",
    "FIRST_NUMBER_ID",
    "NUMBERS_PER_TABLE",
    "PAD_ID",
    "TOKENIZER_FILES",
    "UNK_ID",
    "ByteTokenizer",
    "PretrainedTokenizer",
    "Tokenizer",
    "save_tokenizer",
]
