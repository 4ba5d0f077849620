"""What every tokenizer does, and the ids that Gemma's vocabulary and the byte tokenizer share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
"""Special ids, the same in Gemma's vocabulary and in the byte tokenizer."""


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
