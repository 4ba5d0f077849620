"""A tokenizer of bytes, which needs no file."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .protocol import BOS_ID, PAD_ID


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
