"""A page in one file: its head with style sheet and content policy, its body, its script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files

from .markup import Html, join


class Document:
    """A page that loads nothing: what it shows is inside it.

    Every page has the shared style sheet, `base.css`, and one content policy, by which a browser
    runs and loads only what this class wrote. A page with scripts has the shared `base.js` too.
    """

    def __init__(
        self, title: str, package: str, *, style: str, scripts: Sequence[str] = ()
    ) -> None:
        """Reads style sheets and scripts.

        Args:
            title: of the browser's tab.
            package: whose files are `style` and `scripts`.
            style: name of the style sheet that follows the shared one, as 'view.css'.
            scripts: names of the scripts that follow the shared one, in their order.
        """
        self._title = title
        self._style = _text("flux_core.html", "base.css") + _text(package, style)
        own = "".join(_text(package, script) for script in scripts)
        self._script = _text("flux_core.html", "base.js") + own if scripts else ""

    def pieces(self, body: Iterable[Html]) -> Iterator[str]:
        """Yields the page piece by piece; whatever of `body` is not `Html` is escaped."""
        yield self._head()
        for piece in body:
            yield join([piece])
        yield self._end()

    def render(self, body: Iterable[Html]) -> str:
        """Returns the page."""
        return "".join(self.pieces(body))

    def _head(self) -> str:
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{self._policy()}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title>\n<style>{self._style}</style></head>\n<body>\n"
        )

    def _end(self) -> str:
        """The script comes last: it finds all of the page's data before it."""
        script = f"<script>{self._script}</script>\n" if self._script else ""
        return f"{script}</body></html>\n"

    def _policy(self) -> str:
        """Lets a browser run and load only what is in this file."""
        script = _hash(self._script) if self._script else "'none'"
        return (
            f"default-src 'none'; img-src data:; media-src data:; style-src {_hash(self._style)}; "
            f"script-src {script}; base-uri 'none'; form-action 'none'"
        )


def _text(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source expression that allows exactly this style sheet or script."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"
