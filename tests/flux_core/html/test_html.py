"""The HTML toolkit: text stays text, nothing is loaded, one content policy in the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core import html
from flux_core.html import Document, Html, element

from ...browser import Browser, Node, Tree, assert_nothing_is_loaded, data_of, open_browser, parse

EVIL = "</p></title><script>alert(1)</script><!--<script> \"fold\" 'it' & <b onclick=x>"
# A policy is refused or missed where these stand; the brackets keep this line from being found.
POLICY = ("Content[-]Security[-]Policy", "default[-]src")


def tree_of(part: str) -> Node:
    return Tree(part).root


def write_page(
    path: Path, *body: Html, title: str = "a page", scripts: tuple[str, ...] = ()
) -> Path:
    # The shared files once more stand for a page's own ones.
    document = Document(title, "flux_core.html", style="base.css", scripts=scripts)
    path.write_text(document.render(body), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real one."""
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


# ---- Text


@given(st.text(), st.text())
def test_any_text_in_an_element_stays_text(content: str, value: str) -> None:
    node = tree_of(element("p", content, title=value)).one("p")
    assert (node.text, node.attributes["title"]) == (content, value)
    assert node.children in ([], [content])


def test_html_goes_into_html_as_it_is_and_nothing_else_does() -> None:
    bold = element("b", "1 < 2")
    assert element("p", bold, " & ", 3, class_="a b", hidden=True, id=None, open=False) == (
        '<p class="a b" hidden><b>1 &lt; 2</b> &amp; 3</p>'
    )
    assert html.join([bold, "<i>"], " < ") == "<b>1 &lt; 2</b> &lt; &lt;i&gt;"
    assert element("input", data_value=1.5, aria_label="x") == (
        '<input data-value="1.5" aria-label="x">'
    )


def test_html_that_was_put_together_as_text_is_text_again() -> None:
    bold = element("b", "bold")
    for text in (f"{bold}", bold + "", "".join([bold])):
        assert element("p", text) == "<p>&lt;b&gt;bold&lt;/b&gt;</p>"


def test_what_the_policy_would_refuse_cannot_be_written() -> None:
    for tag in ("script", "style"):
        with pytest.raises(AssertionError, match="belongs to the document"):
            element(tag, "x")
    for name in ("style", "onclick"):
        with pytest.raises(AssertionError, match="refused by the policy"):
            element("p", **{name: "x"})
    for name in ("src", "href", "poster"):
        for address in ("https://example.com", "//example.com", "javascript:x()", "a.png"):
            with pytest.raises(AssertionError, match="lies outside the page"):
                element("a", **{name: address})
    assert element("a", "up", href="#top") == '<a href="#top">up</a>'


PARTS = {
    "header": html.header(EVIL, html.note(EVIL)),
    "section": html.section(EVIL, EVIL, beside=EVIL, id=EVIL, class_=EVIL),
    "card": html.card(EVIL),
    "definitions": html.definitions({EVIL: EVIL}),
    "details": html.details(EVIL, EVIL),
    "table": html.table([EVIL], [html.row([html.cell(EVIL, title=EVIL)], class_=EVIL)]),
    "columns": html.table(html.columns([EVIL]), []),
    "figure": html.figure(EVIL, EVIL, beside=EVIL),
    "video": html.video(EVIL.encode(), EVIL),
    "key": html.key({EVIL: EVIL}, EVIL),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_part_keeps_a_hostile_name_text(part: Html) -> None:
    nodes = list(tree_of(part).below())
    assert EVIL in "".join(node.text for node in nodes)
    assert not {"script", "b", "title"} & {node.tag for node in nodes}
    assert not [name for node in nodes for name in node.attributes if name.startswith("on")]


def test_cells_say_yes_no_or_that_there_is_nothing() -> None:
    row = tree_of(html.row(map(html.cell, (True, False, None, 0, "x")))).one("tr")
    cells = [(cell.text, cell.attributes.get("class")) for cell in row.all("td")]
    assert cells == [("yes", "yes"), ("no", "off"), ("-", "off"), ("0", None), ("x", None)]


# ---- Data


@given(st.text(), st.text())
def test_no_text_can_end_a_block_of_data(name: str, value: str) -> None:
    block = tree_of(html.data_block("numbers", {name + EVIL: [value, EVIL]}))
    assert data_of(block, "numbers") == {name + EVIL: [value, EVIL]}


def test_a_block_of_lines_takes_plain_text_only() -> None:
    assert tree_of("".join(html.line_block("x", ["a", "", "b"]))).one("script").text == "a\n\nb"
    with pytest.raises(AssertionError, match="not plain text"):
        list(html.line_block("x", ["a", EVIL]))


def test_floats_are_rows_of_32_bits() -> None:
    assert html.floats(np.array([[1, 2], [3, 4]])) == "AACAPwAAAEAAAEBAAACAQA=="


# ---- The document


@pytest.mark.parametrize("scripts", [(), ("base.js",)])
def test_a_document_loads_nothing_and_its_title_is_text(
    tmp_path: Path, scripts: tuple[str, ...]
) -> None:
    body = (html.header(EVIL), html.error_line())
    page = write_page(tmp_path / "page.html", *body, title=EVIL, scripts=scripts)
    assert_nothing_is_loaded(page)
    assert parse(page).one("title").text == parse(page).one("h1").text == EVIL
    assert len(parse(page).all("script")) == len(scripts)


def test_a_piece_of_a_body_that_is_no_html_is_escaped() -> None:
    document = Document("x", "flux_core.html", style="base.css")
    pieces = list(document.pieces([EVIL]))  # type: ignore[list-item]
    assert pieces[1].startswith("&lt;/p&gt;")


def test_the_content_policy_stands_in_one_file_of_the_project(
    tracked_files: list[Path], repo_root: Path
) -> None:
    for word in POLICY:
        found = [
            path.relative_to(repo_root).as_posix()
            for path in tracked_files
            for _ in re.findall(word, path.read_bytes().decode("utf-8", errors="ignore"))
        ]
        assert found == ["packages/flux-core/src/flux_core/html/document.py"], word


def test_a_browser_runs_only_what_the_document_wrote(tmp_path: Path, browser: Browser) -> None:
    intruder = Html(
        '<script>document.title = "run"</script><b id="b" style="color: rgb(1, 2, 3)">b</b>'
        '<img src="data:,x" onerror="document.title = \'run\'"><img src="other.png">'
    )
    page = write_page(tmp_path / "page.html", html.error_line(), intruder, scripts=("base.js",))
    program = "return [document.title, getComputedStyle(document.getElementById('b')).color];"
    (title, color), complaints = browser.open(page, program)
    assert title == "a page"
    assert color != "rgb(1, 2, 3)"
    refused = [text for text in complaints if "Content Security Policy" in text]
    assert len(refused) == 4, complaints
    harmless = write_page(tmp_path / "other.html", html.header(EVIL), title=EVIL)
    assert browser.run(harmless, "return document.title;") == EVIL


def test_a_bar_shows_the_interval_and_the_rate_in_a_browser(
    tmp_path: Path, browser: Browser
) -> None:
    bar = element("div", html.interval_bar(0.5, 0.25, 0.875), class_="card")
    page = write_page(tmp_path / "page.html", bar)
    program = """
      const [whole, range, rate] = [...document.querySelectorAll("rect")]
        .map((shape) => shape.getBoundingClientRect());
      const share = (x) => (x - whole.left) / whole.width;
      return [share(range.left), share(range.right), share((rate.left + rate.right) / 2)];
    """
    assert browser.run(page, program) == pytest.approx([0.25, 0.875, 0.5], abs=1e-3)
