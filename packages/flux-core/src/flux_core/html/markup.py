"""HTML that is escaped by construction: plain text that goes into an element stays text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "hr", "img", "input", "meta"})
_ADDRESSES = frozenset({"action", "data", "formaction", "href", "poster", "src", "srcset"})


class Html(str):
    """Text that is already HTML; every other text is escaped when it is put on a page.

    Adding or formatting gives a plain `str` again, which would be escaped: what was put together
    without `element` or `join` shows its tags on the page and can do no harm.
    """

    __slots__ = ()


Child = str | int | float
"""What an element may hold; `Html` is a `str`."""


def join(parts: Iterable[Child], separator: Child = "") -> Html:
    """Returns the parts one after the other; those that are not `Html` are escaped."""
    return Html(_escaped(separator).join(map(_escaped, parts)))


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Returns one element.

    Args:
        tag: its name.
        children: what it holds; whatever is not `Html` is escaped.
        attributes: `class_` stands for `class`, and any other `_` for a `-`. True gives an
            attribute without a value; False and None leave it out. No attribute may hold a script
            or a style, nor an address outside the page: the content policy would refuse them.
    """
    assert tag not in ("script", "style"), f"<{tag}> belongs to the document"
    assert not (children and tag in _VOID), f"<{tag}> holds nothing"
    words = "".join(_attribute(name, value) for name, value in attributes.items())
    start = f"<{tag}{words}>"
    return Html(start if tag in _VOID else f"{start}{join(children)}</{tag}>")


def _attribute(name: str, value: str | float | bool | None) -> str:
    name = name.rstrip("_").replace("_", "-")
    assert name != "style" and not name.startswith("on"), f"{name}= is refused by the policy"
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    is_inside = str(value).startswith(("data:", "#"))
    assert is_inside or name not in _ADDRESSES, f"{name}={value!r} lies outside the page"
    return f' {name}="{escape(str(value), quote=True)}"'


def _escaped(child: Child) -> str:
    return child if isinstance(child, Html) else escape(str(child))
