"""`flux-data view`: the numbers, the pictures and the page that a browser shows."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_core.errors import DataError, UsageError
from flux_core.norm_stats import compute_stats
from flux_data.cli import main
from flux_data.lerobot import open_lerobot
from flux_data.view import write_view
from flux_data.view.distribution import NUM_BINS, RunningStats, pair_dimensions
from flux_data.view.pictures import choose_episodes
from flux_data.view.survey import dimension_names, read_survey

STATE, ACTION = "observation.state", "action"
CAMERAS = {"top": (24, 32), "wrist": (48, 40)}
LENGTHS = (5, 12, 7)
EVIL = "<script>alert(1)</script> & </script><!--<script> \"fold\" 'it'"
Edit = Callable[[int, dict[str, np.ndarray]], None]
LEVEL = 20
"""How much brighter each frame of the small dataset is than the one before."""


def write_dataset(
    root: Path, *, task: str = "fold", with_cameras: bool = True, edit: Edit = lambda *_: None
) -> Path:
    """Three episodes with two cameras as PNG files in the tables; frames grow brighter."""
    cameras = CAMERAS if with_cameras else {}
    names = {"motors": ["shoulder", "gripper"]}
    numbers = {"dtype": "float32", "shape": [2], "names": names}
    counter = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        STATE: numbers,
        ACTION: numbers,
        **{
            f"observation.images.{camera}": {"dtype": "image", "shape": [*size, 3]}
            for camera, size in cameras.items()
        },
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "task_index": counter,
    }
    info = {
        "codebase_version": "v2.1",
        "robot_type": "tiny",
        "fps": 10,
        "chunks_size": 1000,
        "data_path": "data/episode_{episode_index:06d}.parquet",
        "features": features,
    }
    for folder in ("meta", "data"):
        (root / folder).mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    write_lines(root / "meta" / "tasks.jsonl", [{"task_index": 0, "task": task}])
    episodes = [{"episode_index": i, "tasks": [task], "length": n} for i, n in enumerate(LENGTHS)]
    write_lines(root / "meta" / "episodes.jsonl", episodes)
    random = np.random.default_rng(0)
    for index, length in enumerate(LENGTHS):
        values = {
            key: random.normal(size=(length, 2)).astype(np.float32) for key in (STATE, ACTION)
        }
        edit(index, values)
        columns: dict[str, Any] = {key: list(rows) for key, rows in values.items()}
        for camera, size in cameras.items():
            pictures = [
                png(np.full((*size, 3), frame * LEVEL, np.uint8)) for frame in range(length)
            ]
            columns[f"observation.images.{camera}"] = [{"bytes": b, "path": ""} for b in pictures]
        columns["timestamp"] = (np.arange(length) / 10).astype(np.float32)
        columns["task_index"] = np.zeros(length, np.int64)
        pq.write_table(pa.table(columns), root / "data" / f"episode_{index:06d}.parquet")
    return root


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def png(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()


class Node:
    """One element of a page."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """Every element below with this tag and these attributes; `class_` may be one of many."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        nodes = [child for child in self.children if isinstance(child, Node)]
        own = [
            node
            for node in nodes
            if node.tag == tag
            and all(v in node.attributes.get(k, "").split() for k, v in wanted.items())
        ]
        return own + [found for node in nodes for found in node.all(tag, **attributes)]

    def one(self, tag: str, **attributes: str) -> Node:
        (found,) = self.all(tag, **attributes)
        return found


class Tree(HTMLParser):
    """Parses a page, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "input"})

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


def curves_of(page: Node, episode: int, kind: str) -> np.ndarray:
    block = data_of(page, f"episode-{episode}")
    return np.frombuffer(base64.b64decode(block[kind]), "<f4").reshape(block["frames"], -1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset whose task is an attack."""
    return write_dataset(tmp_path_factory.mktemp("small") / "tiny <b>", task=EVIL)


@pytest.fixture(scope="module")
def small_page(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its page, with pictures of the first two episodes."""
    page = tmp_path_factory.mktemp("page") / "view.html"
    write_view(small, page, episodes="0-1", height=24)
    return page


@pytest.fixture(scope="module", params=["v21", "v30c"])
def real(
    request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A shared dataset and its page, with pictures of episode 2."""
    root = shared_data / "lerobot" / request.param
    if not root.is_dir():
        pytest.skip(f"{root} is missing")
    page = tmp_path_factory.mktemp("real") / "view.html"
    write_view(root, page, episodes="2-2")
    return root, page


# ---- Numbers


def test_the_numbers_on_the_page_are_those_of_the_parquet_files(real: tuple[Path, Path]) -> None:
    root, path = real
    page = parse(path)
    table = pa.concat_tables(pq.read_table(f) for f in sorted((root / "data").rglob("*.parquet")))
    names = json.loads((root / "meta" / "info.json").read_text())["features"][STATE]["names"]
    panels = page.all("figure", class_="distribution")
    assert [panel.one("figcaption").text for panel in panels] == names
    for short, key in (("state", STATE), ("action", ACTION)):
        values = np.array(table[key].to_pylist(), np.float64)
        low, high = np.quantile(values, [0.01, 0.99], axis=0)
        ends = values.min(axis=0), values.max(axis=0)
        expected = np.stack([values.mean(axis=0), values.std(axis=0), *ends, low, high], axis=1)
        rows = [
            next(row for row in panel.all("tr") if row.all("th", class_=short)).all("td")
            for panel in panels
        ]
        exact = [[float(cell.attributes["title"]) for cell in row] for row in rows]
        np.testing.assert_allclose(exact, expected, rtol=1e-8, atol=1e-9)
        written = [[float(cell.text.replace("\N{MINUS SIGN}", "-")) for cell in r] for r in rows]
        np.testing.assert_allclose(written, expected, atol=0.006)
        is_second = np.array(table["episode_index"]) == 2
        np.testing.assert_array_equal(curves_of(page, 2, short), values[is_second])


def test_the_page_tells_episodes_frames_and_tasks(real: tuple[Path, Path]) -> None:
    page = parse(real[1])
    facts = dict(
        zip(
            (node.text for node in page.all("dt")),
            (node.text for node in page.all("dd")),
            strict=True,
        )
    )
    assert (facts["Episodes"], facts["Frames"]) == ("12", "1,800")
    assert (facts["Rate"], facts["Robot"], facts["Hours"]) == ("50 fps", "aloha", "0.01")
    tasks = page.one("div", class_="tasks").one("tbody").all("tr")
    assert [[cell.text for cell in task.all("td")[1:]] for task in tasks] == [["3", "450"]] * 4
    rows = page.one("table", id="episodes").one("tbody").all("tr")
    assert [row.all("td")[0].text for row in rows] == [str(i) for i in range(12)]
    assert [cell.text for cell in rows[2].all("td")] == ["2", "open the drawer", "150", "3.00"]
    assert [row.attributes["data-episode"] for row in rows if "class" in row.attributes] == ["2"]


def test_histograms_are_numpys(small: Path) -> None:
    survey = read_survey(open_lerobot(small), lambda *_: None)
    source = open_lerobot(small).columns([STATE, ACTION])
    for row, panel in enumerate(survey.panels):
        both = np.concatenate([source[key][:, dim] for key, dim in panel.dims.items()])
        assert survey.ranges[row] == (both.min(), both.max())
        for key, dim in panel.dims.items():
            expected, _ = np.histogram(
                source[key][:, dim].astype(float), NUM_BINS, survey.ranges[row]
            )
            np.testing.assert_array_equal(survey.counts[key][row], expected)


@given(st.integers(1, 700), st.integers(0, 2**32 - 1), st.lists(st.integers(0, 700), max_size=5))
def test_statistics_in_parts_are_those_of_the_whole(count: int, seed: int, cuts: list[int]) -> None:
    values = np.random.default_rng(seed).normal(3.0, 2.0, size=(count, 2)).round(1)
    running = RunningStats(2, count)
    for part in np.split(values, sorted(cuts)):
        running.add(part)
    expected, got = compute_stats(values), running.result()
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=1e-12)
    assert got.count == count
    assert not running.num_not_finite.any()


def test_many_parts_are_kept_in_little_memory() -> None:
    values = np.random.default_rng(0).normal(size=(100_000, 1))
    running = RunningStats(1, len(values))
    for part in np.split(values, 1000):
        running.add(part)
    assert running.result().q99 == pytest.approx(compute_stats(values).q99, abs=1e-12)
    assert len(running._high._buffer) < 6000


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    def spoil(index: int, values: dict[str, np.ndarray]) -> None:
        values[STATE][1, 0] = np.nan
        values[STATE][:, 1] = np.inf

    root = write_dataset(tmp_path / "data", edit=spoil)
    write_view(root, tmp_path / "view.html", height=16)
    shoulder, gripper = parse(tmp_path / "view.html").all("figure", class_="distribution")
    assert shoulder.one("td", class_="bad").text == "3 not finite"
    assert gripper.one("td", class_="bad").text == "24 not finite"
    values = open_lerobot(root).columns([STATE])[STATE][:, 0]
    mean = float(shoulder.all("td")[0].attributes["title"])
    assert mean == pytest.approx(np.nanmean(values.astype(float)), abs=1e-8)
    assert gripper.all("td")[0].text == "–"


# ---- Names


@pytest.mark.parametrize(
    ("state", "action", "expected"),
    [
        (["a", "b"], ["a", "b"], ["a", "b"]),
        ([["a", "b"]], None, ["a", "b"]),
        ({"motors": ["a", "b"]}, {"b": 1, "a": 0}, ["a", "b"]),
        (None, None, ["0", "1"]),
        (["a"], None, ["0", "1"]),  # a wrong number of names is none
        (["a", "b"], ["b", "c"], ["a", "b", "c"]),
    ],
)
def test_dimensions_of_one_name_share_a_panel(state: Any, action: Any, expected: list[str]) -> None:
    features = {
        STATE: {"shape": [2], "names": state},
        ACTION: {"shape": [2], "names": action},
    }
    panels = pair_dimensions(dimension_names(features))
    assert [panel.name for panel in panels] == expected
    if len(expected) == 2:
        assert [dict(panel.dims) for panel in panels] == [{STATE: i, ACTION: i} for i in range(2)]


def test_nameless_features_of_different_size_are_kept_apart() -> None:
    features = {STATE: {"shape": [2], "names": None}, ACTION: {"shape": [1], "names": None}}
    names = [panel.name for panel in pair_dimensions(dimension_names(features))]
    assert names == ["state 0", "state 1", "action 0"]


# ---- The page as a file


def test_a_task_stays_text(small_page: Path) -> None:
    page = parse(small_page)
    assert page.one("title").text == "tiny <b>"
    assert page.one("div", class_="tasks").one("tbody").all("td")[0].text == EVIL
    rows = page.one("table", id="episodes").one("tbody").all("tr")
    assert {row.all("td")[1].text for row in rows} == {EVIL}
    assert all(row.all("td")[1].attributes["title"] == EVIL for row in rows)
    ours = [node for node in page.all("script") if "type" not in node.attributes]
    assert len(ours) == 1
    assert "alert" not in ours[0].text


def test_no_name_can_end_a_block_of_data(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", with_cameras=False)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"][STATE]["names"] = info["features"][ACTION]["names"] = [EVIL, "b"]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    write_view(root, tmp_path / "view.html")
    page = parse(tmp_path / "view.html")
    assert data_of(page, "page-data")["panels"][0]["name"] == EVIL
    assert page.all("figure", class_="distribution")[0].one("figcaption").text == EVIL


def test_nothing_outside_the_page_is_referenced(small_page: Path) -> None:
    text, page = small_page.read_text(encoding="utf-8"), parse(small_page)
    assert not re.search(
        r"<(link|img|iframe|object|embed|base)\b|@import|url\(|\bsrc=|\bhref=", text
    )
    addresses = set(re.findall(r"\bhttps?://[^\s\"']+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    policy = next(
        node.attributes["content"]
        for node in page.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert " style=" not in text


def test_every_frame_of_every_camera_is_on_the_page(small_page: Path) -> None:
    page = parse(small_page)
    assert [node.text for node in page.one("div", id="cameras").all("figcaption")] == list(CAMERAS)
    for episode in (0, 1):
        lines = page.one("script", id=f"pictures-{episode}").text.split("\n")
        assert len(lines) == LENGTHS[episode]
        for frame, line in enumerate(lines):
            pictures = [Image.open(io.BytesIO(base64.b64decode(each))) for each in line.split(" ")]
            assert [picture.size for picture in pictures] == [(32, 24), (20, 24)]
            for picture in pictures:
                assert abs(np.asarray(picture).mean() - frame * LEVEL) < LEVEL / 4
    assert not page.all("script", id="pictures-2")


def test_a_dataset_without_cameras_has_curves_all_the_same(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", with_cameras=False)
    report = write_view(root, tmp_path / "view.html")
    assert report["num_pictures"] == 0
    page = parse(tmp_path / "view.html")
    assert curves_of(page, 1, "action").shape == (12, 2)
    assert not page.all("canvas")


# ---- The command


def test_the_command_tells_what_it_wrote(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "view.html"
    out.write_text("an older page")
    argv = ["view", str(small), "--out", str(out), "--episodes", "2", "--size", "16"]
    assert main([*argv, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "out": str(out),
        "bytes": out.stat().st_size,
        "episodes": [0, 2],
        "num_episodes": 3,
        "num_pictures": 24,
    }
    assert "pictures and curves of 2 of 3 episodes: 0, 2" in printed.err
    assert main(argv) == 0
    assert f"{out}: 0.0 MB" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]


def test_a_missing_camera_file_is_one_error_and_leaves_no_page(
    one_episode: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(one_episode, root, symlinks=True)
    (root / "videos").unlink()
    out = tmp_path / "out" / "view.html"
    out.parent.mkdir()
    assert main(["view", str(root), "--out", str(out)]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    assert "cam_high/episode_000000.mp4: the video of observation.images.cam_high" in error[0]
    assert list(out.parent.iterdir()) == []


def test_a_damaged_picture_leaves_the_older_page(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "data"), tmp_path / "out" / "view.html"
    out.parent.mkdir()
    out.write_text("an older page")
    path = root / "data" / "episode_000001.parquet"
    table = pq.read_table(path)
    key = "observation.images.wrist"
    broken = [{"bytes": b"no picture", "path": ""}] * len(table)
    table = table.set_column(table.schema.get_field_index(key), key, pa.array(broken))
    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"000001.parquet: observation.images.wrist, frame 0: the"):
        write_view(root, out)
    assert out.read_text() == "an older page"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--episodes", "x"], "--episodes: expected N-M or how many, got 'x'"),
        (["--episodes", "0"], "--episodes: expected 1 to 3 (all of them), got 0"),
        (["--episodes", "4"], "To choose episode 4 alone: --episodes 4-4"),
        (["--episodes", "1-3"], "--episodes: expected some of 0-2, got 1-3"),
        (["--episodes", "2-1"], "--episodes: expected some of 0-2, got 2-1"),
        (["--size", "4"], "--size: expected 16 to 2160 pixels, got 4"),
        (["--out", "nowhere/view.html"], "expected a file in a directory that exists"),
    ],
)
def test_senseless_options_are_refused(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    out = tmp_path / "view.html"
    assert main(["view", str(small), "--out", str(out), *options]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_episodes_with_pictures_are_spread_evenly(small: Path) -> None:
    source = open_lerobot(small)
    source.episode_indices = np.arange(100, 200)
    source.lengths = np.full(100, 300)
    source.episode_starts = np.arange(0, 300 * 101, 300)
    assert choose_episodes(source, "3") == [0, 50, 99]
    assert choose_episodes(source, "103-105") == [3, 4, 5]
    assert choose_episodes(source, None) == [0, 14, 28, 42, 57, 71, 85, 99]
    source.episode_starts = np.arange(0, 3000 * 101, 3000)  # long ones: fewer
    assert choose_episodes(source, None) == [0, 99]
    with pytest.raises(UsageError, match="100-199"):
        choose_episodes(source, "3-5")


# ---- The page in a browser


PRELUDE = """
  const shown = document.documentElement.dataset;
  const until = async (isTrue) => {
    const begin = performance.now();
    while (!isTrue()) {
      if (performance.now() - begin > 20000) throw new Error(`waited in vain for ${isTrue}`);
      await new Promise((go) => setTimeout(go, 1));
    }
  };
  const is = (episode, frame) => () => shown.episode === episode && shown.frame === frame;
  const canvases = [...document.querySelectorAll("#cameras canvas")];
  const pixel = (canvas, x, y) =>
    canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data[1];
"""


class Browser:
    """A real browser without a window, driven over its DevTools pipe."""

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
                assert ready, "the browser has not answered for a minute"
                data = os.read(self._reads, 1 << 20)
                assert data, "the browser has ended"
                self._pending += data
            text, _, self._pending = self._pending.partition(b"\0")
            message = json.loads(text)
            if is_wanted(message):
                return message

    def run(self, page: Path, fragment: str, program: str) -> Any:
        """Opens the page and returns what `program`, an async function's body, returns."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.command("Page.enable", session)
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
        return answer["result"].get("value")

    def show(self, page: Path, fragment: str) -> Node:
        """The page once it shows an episode."""
        program = "await until(() => shown.cameras); return document.documentElement.outerHTML;"
        return Tree(self.run(page, fragment, program)).root.one("html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser, found none of {', '.join(names)}")
    browser = Browser(found, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def test_the_page_opens_at_the_frame_of_its_address(small_page: Path, browser: Browser) -> None:
    html = browser.show(small_page, "episode=1&frame=7")
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
    html = browser.show(small_page, "episode=2&frame=3")
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
    first, *others = browser.run(real[1], "episode=2&frame=37", program)

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
    told = browser.run(small_page, "episode=0&frame=2", program)
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
    html = browser.show(tmp_path / "view.html", "frame=2")
    assert html.attributes["data-errors"] == "0"
    assert (html.attributes["data-episode"], html.attributes["data-frame"]) == ("0", "2")
    curve = html.one("section", id="curves").all("figure")[0]
    assert curve.one("span", class_="action").text == "–"
    assert curve.one("path", class_="action").attributes["d"].count("M") == 2
