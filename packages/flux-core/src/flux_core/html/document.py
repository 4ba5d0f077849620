"""A page that needs nothing else: its head, its end, and data that no text can break out of."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Document:
    """The head and end of a page, with the style sheet and script that all our pages share."""

    def __init__(self, package: str, style: str, *scripts: str) -> None:
        """`style`.css and each of `scripts`.js of a package follow what is shared."""
        self._style = _text("flux_core.html", "base.css") + _text(package, f"{style}.css")
        own = (_text(package, f"{script}.js") for script in scripts)
        self._script = _text("flux_core.html", "base.js") + "".join(own)

    def head(self, title: str) -> str:
        """Everything up to the body."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{self._policy()}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{self._style}</style></head>\n<body>\n"
        )

    def end(self) -> str:
        """The script, which finds all the page's data before it."""
        return f"<script>{self._script}</script>\n</body></html>\n"

    def _policy(self) -> str:
        """Lets the browser run and load only what this class wrote."""
        return (
            f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(self._style)}'; "
            f"script-src 'sha256-{_digest(self._script)}'"
        )


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def definitions(values: Mapping[str, object]) -> str:
    """Names and values side by side, as a card."""
    items = (f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in values.items())
    return f'<dl class="card">{"".join(items)}</dl>'


def floats(values: NDArray[Any]) -> str:
    """Rows of 32-bit little-endian floats, as base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode("ascii")


def data_block(name: str, content: Mapping[str, Any]) -> str:
    """JSON in which no text can end the block."""
    text = json.dumps(content).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'
