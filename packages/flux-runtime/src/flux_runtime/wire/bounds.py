"""How large a message may be, and the error of one that is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import FluxError

MIB = 2**20

Kind = Literal[
    "oversized",
    "too_deep",
    "too_many_items",
    "malformed",
    "bad_array",
    "bad_picture",
    "bad_request",
    "missing",
    "unsupported",
]
"""Why a message was refused, for a metric's label."""

DTYPES = frozenset(
    {
        *("|b1", "|u1", "|i1"),
        *("<u2", "<u4", "<u8", "<i2", "<i4", "<i8"),
        *("<f2", "<f4", "<f8"),
    }
)
"""What arrays may hold, as `numpy.dtype.str`: no objects, records, texts or dates, which need more
than a copy of bytes, and no other byte order."""


class WireError(FluxError):
    """A message that is refused, in one line; `kind` says why in a word.

    Characters that would move a terminal's cursor are replaced: names in it may be a stranger's.
    """

    def __init__(self, message: str, kind: Kind = "bad_request") -> None:
        super().__init__(one_line(message))
        self.kind: Kind = kind


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How large one message may be.

    Attributes:
        max_bytes: of the frame.
        max_depth: maps and lists inside each other; the message itself is the first.
        max_items: values in all maps and lists together, keys not counted. An array is four.
        max_text: bytes of a text or a key.
        max_key: characters of a key.
        max_array_bytes: of one array, or of one value of bytes.
        max_dims: of one array.
        dtypes: what arrays may hold.
    """

    max_bytes: int = 32 * MIB
    max_depth: int = 8
    max_items: int = 4096
    max_text: int = 16 * 2**10
    max_key: int = 512
    max_array_bytes: int = 32 * MIB
    max_dims: int = 4
    dtypes: frozenset[str] = DTYPES


METADATA_BOUNDS = Bounds(
    max_bytes=16 * MIB,
    max_depth=64,
    max_items=400_000,
    max_array_bytes=16,
    dtypes=frozenset(),
)
"""Of the first message of a server: a manifest and parts of a config, which are JSON files of at
most 4 MiB each, and no array."""


def shown(value: object) -> str:
    """Returns what a value is, for a message of one line: short, however large the value is."""
    if isinstance(value, np.ndarray | np.generic):
        array = cast(NDArray[Any], value)
        return f"{array.dtype} {list(array.shape)}"
    if isinstance(value, str):
        text = ascii(value[:80])
        return text if len(text) <= 80 else f"{text[:77]}..."
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, dict | list | tuple):
        name = "map" if isinstance(value, dict) else "list"
        return f"a {name} of {len(cast(list[object], value))}"
    return ascii(value)[:80] if isinstance(value, int | float | None) else type(value).__name__


def one_line(message: str) -> str:
    """Returns a stranger's text without characters that move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in message)
