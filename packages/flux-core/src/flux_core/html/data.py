"""Data inside a page, for its script: no text can break out of its block."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from .markup import Html


def floats(values: ArrayLike) -> str:
    """Returns an array as base64: row by row, each value a 32-bit little-endian float."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode("ascii")


def data_block(id: str, content: Mapping[str, object]) -> Html:
    """Returns a block of JSON that the script finds by its id."""
    text = json.dumps(content).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{_plain(id)}">{text}</script>\n')


def line_block(id: str, lines: Iterable[str]) -> Iterator[Html]:
    """Yields a block of plain text line by line, so that no more than a line is in memory.

    Args:
        id: by which the script finds it.
        lines: without any '<', as base64 is.
    """
    yield Html(f'<script type="text/plain" id="{_plain(id)}">')
    for number, line in enumerate(lines):
        yield Html(("\n" if number else "") + _plain(line))
    yield Html("</script>\n")


def _plain(text: str) -> str:
    assert not any(sign in text for sign in '<>"&'), f"not plain text: {text[:80]!r}"
    return text
