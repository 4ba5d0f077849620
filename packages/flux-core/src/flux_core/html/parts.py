"""What our pages are made of: cards, tables, figures, videos and legends."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping

from .markup import Child, Html, element


def header(title: Child, *below: Child) -> Html:
    """Returns the page's title and what stands below it."""
    return element("header", element("h1", title), *below)


def section(
    title: Child,
    *content: Child,
    beside: Child = "",
    id: str | None = None,
    class_: str | None = None,
    is_hidden: bool = False,
) -> Html:
    """Returns a part of the page under its title; `beside` follows the title on its line."""
    heading = element("h2", title, " ", beside) if beside else element("h2", title)
    return element("section", heading, *content, id=id, class_=class_, hidden=is_hidden)


def note(words: Child) -> Html:
    """Returns a line in the muted colour."""
    return element("p", words, class_="muted")


def error_line() -> Html:
    """Returns the hidden line in which a page with a script says that the script has failed."""
    return element("p", id="error", class_="bad", hidden=True)


def card(*content: Child, class_: str = "") -> Html:
    """Returns a framed box."""
    return element("div", *content, class_=f"card {class_}".strip())


def definitions(values: Mapping[str, Child]) -> Html:
    """Returns names and values side by side, as a card."""
    pairs = (
        element("div", element("dt", name), element("dd", value)) for name, value in values.items()
    )
    return element("dl", *pairs, class_="card")


def details(summary: Child, *content: Child, is_open: bool = False) -> Html:
    """Returns a summary that unfolds its content."""
    return element("details", element("summary", summary), *content, open=is_open)


def cell(value: Child | None, **attributes: str | float | bool | None) -> Html:
    """Returns a cell of a table; None is a dash, and a bool is yes or no in colour."""
    if value is None:
        return element("td", "-", class_="off")
    if isinstance(value, bool):
        return element("td", "yes" if value else "no", class_="yes" if value else "off")
    return element("td", value, **attributes)


def row(cells: Iterable[Html], **attributes: str | float | bool | None) -> Html:
    """Returns a row of cells."""
    return element("tr", *cells, **attributes)


def table(
    head: Iterable[Child], rows: Iterable[Html], *, id: str | None = None, class_: str = "card"
) -> Html:
    """Returns a table in a box that scrolls.

    Args:
        head: titles of the columns; the first column is aligned to the left.
        rows: made by `row`.
        id: of the table.
        class_: of the box.
    """
    titles = element("thead", row(element("th", title) for title in head))
    grid = element("table", titles, element("tbody", *rows), id=id)
    return element("div", grid, class_=f"{class_} scroll")


def figure(name: Child, *content: Child, beside: Child = "", class_: str | None = None) -> Html:
    """Returns a figure under its name; `beside` stands at the right of the name."""
    small = element("small", beside) if beside else ""
    return element("figure", element("figcaption", name, small), *content, class_=class_)


def video(mp4: bytes, *caption: Child) -> Html:
    """Returns an MP4 that lies inside the page, with its caption below."""
    address = f"data:video/mp4;base64,{base64.b64encode(mp4).decode('ascii')}"
    player = element(
        "video", controls=True, muted=True, loop=True, playsinline=True, preload="metadata",
        src=address,
    )  # fmt: skip
    return element("figure", player, element("figcaption", *caption))


def key(entries: Mapping[str, Child], note: Child = "") -> Html:
    """Returns a legend: class of the line -> what it shows; `note` stands at the right."""
    lines = (
        element("span", element("i", class_=class_), label) for class_, label in entries.items()
    )
    return element(
        "div", *lines, element("span", note, class_="note") if note else "", class_="key"
    )


def interval_bar(rate: float, low: float, high: float) -> Html:
    """Returns a bar from 0 to 1 with the interval from `low` to `high` in colour and the rate."""
    shapes = (
        element("rect", class_="whole", width="100%", height=10, rx=5),
        element("rect", class_="range", x=f"{low:.2%}", width=f"{high - low:.2%}", height=10, rx=5),
        element("rect", class_="rate", x=f"{rate:.2%}", y=-3, width=4, height=16, rx=2),
    )
    label = f"{rate:.0%}, between {low:.0%} and {high:.0%}"
    return element("svg", *shapes, class_="interval", role="img", aria_label=label)


def columns(names: Iterable[str]) -> list[str]:
    """Returns titles of columns from keys of JSON."""
    return [name.replace("_", " ") for name in names]
