"""HTML pages of one file each: one style sheet, one content policy, text escaped by construction.

A page is a `Document`; its body is made of `element` and of the parts below.
"""

from __future__ import annotations

from .data import data_block, floats, line_block
from .document import Document
from .markup import Child, Html, element, join
from .parts import (
    card,
    cell,
    columns,
    definitions,
    details,
    error_line,
    figure,
    header,
    interval_bar,
    key,
    note,
    row,
    section,
    table,
    video,
)

__all__ = [
    "Child",
    "Document",
    "Html",
    "card",
    "cell",
    "columns",
    "data_block",
    "definitions",
    "details",
    "element",
    "error_line",
    "figure",
    "floats",
    "header",
    "interval_bar",
    "join",
    "key",
    "line_block",
    "note",
    "row",
    "section",
    "table",
    "video",
]
