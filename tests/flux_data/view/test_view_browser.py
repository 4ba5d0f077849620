"""`flux-data view`: what a real browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flux_data.view import write_view

from ...browser import Browser, Node, Tree, open_browser, parse
from .view_pages import ACTION, EVIL, LEVEL, curves_of, real_page, write_dataset

PRELUDE = """
  const is = (episode, frame) => () => shown.episode === episode && shown.frame === frame;
  const canvases = [...document.querySelectorAll("#cameras canvas")];
  const pixel = (canvas, x, y) =>
    canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data[1];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real one."""
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset's page, with pictures of the first two episodes."""
    folder = tmp_path_factory.mktemp("small")
    write_view(write_dataset(folder / "tiny <b>", task=EVIL), folder / "view.html", episodes="0-1")
    return folder / "view.html"


@pytest.fixture(scope="module", params=["v21", "v30c"])
def real(
    request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A shared dataset and its page, with pictures of episode 2."""
    return real_page(shared_data, request.param, tmp_path_factory.mktemp("real"))


def show(browser: Browser, page: Path, fragment: str) -> Node:
    """The page once it shows an episode."""
    program = "await until(() => shown.cameras); return document.documentElement.outerHTML;"
    return Tree(browser.run(page, program, fragment)).root.one("html")


def test_the_page_opens_at_the_frame_of_its_address(small_page: Path, browser: Browser) -> None:
    html = show(browser, small_page, "episode=1&frame=7")
    shown = {k: v for k, v in html.attributes.items() if k.startswith("data-")}
    assert shown == {
        "data-errors": "0",
        "data-episode": "1",
        "data-frame": "7",
        "data-cameras": "2",
    }
    assert html.one("span", id="title").text == "Episode 1"
    assert html.one("small", id="task").text == EVIL
    assert html.one("output", id="position").text == "frame 7 / 11 · 0.70 s"
    curves = html.one("section", id="curves").one("div", class_="grid").all("figure")
    values = curves_of(parse(small_page), 1, "state")[7]
    for curve, value in zip(curves, values, strict=True):
        assert float(curve.one("span", class_="state").text.replace("−", "-")) == pytest.approx(
            value, abs=0.005
        )
    assert html.one("section", id="curves").all("path", class_="state")[0].attributes["d"]


def test_an_episode_without_pictures_says_how_to_get_them(
    small_page: Path, browser: Browser
) -> None:
    html = show(browser, small_page, "episode=2&frame=3")
    assert (html.attributes["data-episode"], html.attributes["data-cameras"]) == ("2", "0")
    assert html.attributes["data-errors"] == "0"
    assert "flux-data view … --episodes 2-2" in html.one("p", id="absent").text
    assert "hidden" in html.one("section", id="curves").attributes


def test_every_picture_is_the_right_one(real: tuple[Path, Path], browser: Browser) -> None:
    program = """
      const scrubber = document.getElementById("scrubber");
      const code = (canvas) => Array.from({ length: 20 }, (_, i) =>
        pixel(canvas, (i + 0.5) / 20, 16 / 480) > 127 ? 2 ** i : 0).reduce((a, b) => a + b);
      await until(() => shown.frame === "37");
      const codes = [canvases.map(code)];
      for (let frame = 0; frame <= Number(scrubber.max); frame++) {
        scrubber.value = frame;
        scrubber.dispatchEvent(new Event("input"));
        await until(() => shown.frame === String(frame));
        codes.push(canvases.map(code));
      }
      return codes;
    """
    first, *others = browser.run(real[1], PRELUDE + program, "episode=2&frame=37")

    def expected(frame: int) -> list[int]:
        return [(2 << 10) | (frame << 2) | camera for camera in range(3)]

    assert first == expected(37)
    assert others == [expected(frame) for frame in range(150)]


def test_keys_buttons_and_columns_do_what_they_say(small_page: Path, browser: Browser) -> None:
    program = """
      const told = {};
      const at = (name) => { told[name] = [shown.episode, shown.frame]; };
      const click = (selector) => document.querySelector(selector).click();
      const press = (key, more) => document.body.dispatchEvent(
        new KeyboardEvent("keydown", { key, bubbles: true, ...more }));
      await until(is("0", "2"));
      press("ArrowRight"); press("ArrowRight");
      await until(is("0", "4")); at("two on");
      press("ArrowRight");
      press("n");
      await until(is("1", "0")); at("next");
      press("ArrowRight", { shiftKey: true });
      await until(is("1", "10")); at("ten on");
      press("Home"); press("ArrowLeft");
      await until(is("1", "0")); at("home");
      press(" ");
      told.playing = document.documentElement.className;
      await until(is("1", "11")); at("played");
      told.brightness = canvases.map((canvas) => pixel(canvas, 0.5, 0.5));
      const order = () => [...document.querySelectorAll("#episodes tbody tr")]
        .map((row) => row.dataset.episode).join("");
      click("#episodes th:nth-child(3) button"); told.up = order();
      click("#episodes th:nth-child(3) button"); told.down = order();
      click("#episodes tr[data-episode='0']");
      await until(is("0", "0")); at("clicked");
      told.row = document.querySelector("#episodes tr[aria-current]").dataset.episode;
      location.hash = "episode=1&frame=99";
      await until(is("1", "11")); at("beyond the end");
      const plot = document.querySelector(".plot");
      const box = plot.querySelector("svg").getBoundingClientRect();
      const point = (type) => plot.dispatchEvent(new PointerEvent(type,
        { clientX: box.left + box.width * 5 / 11, clientY: box.top + 9, bubbles: true }));
      point("pointermove");
      told.hovered = document.getElementById("moment").textContent;
      point("pointerleave");
      told.left = document.getElementById("moment").textContent;
      told.errors = shown.errors;
      return told;
    """
    told = browser.run(small_page, PRELUDE + program, "episode=0&frame=2")
    brightness = told.pop("brightness")
    assert all(abs(level - 11 * LEVEL) < LEVEL / 4 for level in brightness)
    assert told == {
        "two on": ["0", "4"],
        "next": ["1", "0"],
        "ten on": ["1", "10"],
        "home": ["1", "0"],
        "playing": "playing",
        "played": ["1", "11"],
        "up": "021",
        "down": "120",
        "clicked": ["0", "0"],
        "row": "0",
        "beyond the end": ["1", "11"],
        "hovered": "values at frame 5, 0.50 s",
        "errors": "0",
        "left": "values at frame 11, 1.10 s",
    }


def test_a_page_without_cameras_works_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    def spoil(index: int, values: dict[str, np.ndarray]) -> None:
        values[ACTION][2, 0] = np.nan

    root = write_dataset(tmp_path / "data", with_cameras=False, edit=spoil)
    write_view(root, tmp_path / "view.html")
    html = show(browser, tmp_path / "view.html", "frame=2")
    assert html.attributes["data-errors"] == "0"
    assert (html.attributes["data-episode"], html.attributes["data-frame"]) == ("0", "2")
    curve = html.one("section", id="curves").all("figure")[0]
    assert curve.one("span", class_="action").text == "–"
    assert curve.one("path", class_="action").attributes["d"].count("M") == 2
