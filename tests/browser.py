"""Reads pages as a browser does: with a strict parser, or in a real headless browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import flux_core.html

STYLE = Path(flux_core.html.__file__).with_name("base.css")
PRELUDE = """
  const shown = document.documentElement.dataset;
  const until = async (isTrue) => {
    const begin = performance.now();
    while (!isTrue()) {
      if (performance.now() - begin > 20000) throw new Error(`timed out waiting for ${isTrue}`);
      await new Promise((go) => setTimeout(go, 1));
    }
  };
"""


class Node:
    """One element of a page."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """Returns all descendants with this tag and attributes; `class_` may be one of several."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        nodes = [child for child in self.children if isinstance(child, Node)]
        own = [
            node
            for node in nodes
            if node.tag == tag
            and all(v in node.attributes.get(k, "").split() for k, v in wanted.items())
        ]
        return own + [found for node in nodes for found in node.all(tag, **attributes)]

    def below(self) -> Iterator[Node]:
        """Yields all descendants, in the order of the page."""
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.below()

    def one(self, tag: str, **attributes: str) -> Node:
        (found,) = self.all(tag, **attributes)
        return found


class Tree(HTMLParser):
    """Parses a page, and checks that tags are closed in order."""

    VOID = frozenset({"br", "input", "meta"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(page)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in self.VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: Path) -> Node:
    return Tree(page.read_text(encoding="utf-8")).root


def data_of(page: Node, name: str) -> Any:
    return json.loads(page.one("script", id=name).text)


def policy_of(page: Node) -> dict[str, list[str]]:
    """Returns what the content policy lets a browser load: kind ('img', ...) -> sources."""
    (policy,) = [node for node in page.all("meta") if "http-equiv" in node.attributes]
    directives = (each.split() for each in policy.attributes["content"].split(";"))
    return {name.removesuffix("-src"): sources for name, *sources in directives}


def assert_nothing_is_loaded(path: Path) -> None:
    """Checks that the page has our policy and style sheet and refers to nothing outside itself."""
    text, page = path.read_text(encoding="utf-8"), parse(path)
    (style,), scripts = page.all("style"), [s for s in page.all("script") if not s.attributes]
    assert style.text.startswith(STYLE.read_text(encoding="utf-8"))
    assert policy_of(page) == {
        "default": ["'none'"],
        "img": ["data:"],
        "media": ["data:"],
        "style": [_source(style.text)],
        "script": [_source(script.text) for script in scripts] or ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    nodes = list(page.below())
    names = {name for node in nodes for name in node.attributes}
    assert not [name for name in names if name == "style" or name.startswith("on")]
    addresses = [node.attributes.get(name, "#") for node in nodes for name in ("src", "href")]
    assert [each for each in addresses if not each.startswith(("data:", "#"))] == []
    loading = {"link", "iframe", "frame", "object", "embed", "base", "source"}
    assert not loading & {node.tag for node in nodes}
    assert not re.search(r"@import|url\((?!#)", text)
    # SVG's namespace, which scripts need for drawing, is not an address.
    assert set(re.findall(r"\bhttps?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}


def _source(text: str) -> str:
    """Returns the source expression for this style sheet or script in a content policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class Browser:
    """A real headless browser, driven over its DevTools pipe."""

    def __init__(self, program: str, profile: Path) -> None:
        browser_reads, self._writes = os.pipe()
        self._reads, browser_writes = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"
        ends = f'exec "$0" "$@" 3<&{browser_reads} 4>&{browser_writes}'
        self._process = subprocess.Popen(
            ["bash", "-c", ends, program, *flags.split(), f"--user-data-dir={profile}"],
            pass_fds=(browser_reads, browser_writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(browser_writes)
        self._pending, self._last_id = b"", 0
        self._complaints: list[str] = []

    def close(self) -> None:
        self.command("Browser.close")
        self._process.wait(timeout=30)
        os.close(self._reads)
        os.close(self._writes)

    def command(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Sends one command of the DevTools protocol and waits for its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        answer = self._next(lambda message: message.get("id") == self._last_id)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" not in self._pending:
                ready, _, _ = select.select([self._reads], [], [], 60)
                assert ready, "the browser did not answer within a minute"
                data = os.read(self._reads, 1 << 20)
                assert data, "the browser has exited"
                self._pending += data
            text, _, self._pending = self._pending.partition(b"\0")
            message = json.loads(text)
            if message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self._complaints.append(entry["text"])
            if is_wanted(message):
                return message

    def run(self, page: Path, program: str, fragment: str = "", *, dark: bool = False) -> Any:
        """Opens the page and returns what `program`, an async function's body, returns.

        It may use `shown`, the root element's data, and `await until(isTrue)`. The browser must
        not complain about the page, for example because the content policy refuses something.
        """
        result, complaints = self.open(page, program, fragment, dark=dark)
        assert complaints == []
        return result

    def open(
        self, page: Path, program: str, fragment: str = "", *, dark: bool = False
    ) -> tuple[Any, list[str]]:
        """Does the same as `run`, and also returns the browser's complaints."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", session, features=[scheme])
        self._complaints = []
        self.command("Page.enable", session)
        self.command("Log.enable", session)
        self.command("Page.navigate", session, url=f"{page.as_uri()}#{fragment}")
        self._next(lambda message: message.get("method") == "Page.loadEventFired")
        answer = self.command(
            "Runtime.evaluate",
            session,
            expression=f"(async () => {{{PRELUDE}{program}}})()",
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        self.command("Target.closeTarget", targetId=target)
        return answer["result"].get("value"), self._complaints


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Opens $FLUX_BROWSER, or Chromium or Chrome; skips the test if there is none."""
    named = os.environ.get("FLUX_BROWSER")
    names = (named,) if named else ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser, got none of {', '.join(names)}")
    browser = Browser(found, profile)
    yield browser
    browser.close()
