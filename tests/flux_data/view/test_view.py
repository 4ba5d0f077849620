"""`flux-data view`: the numbers, the pictures and the page as a file."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
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
from flux_data.commands.main import main
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.state_action import dimension_names
from flux_data.lerobot.statistics import RunningStats
from flux_data.view import write_view
from flux_data.view.distribution import NUM_BINS, pair_dimensions
from flux_data.view.pictures import choose_episodes
from flux_data.view.survey import read_survey

from ...browser import assert_nothing_is_loaded, data_of, parse
from .view_pages import (
    ACTION,
    CAMERAS,
    EVIL,
    LENGTHS,
    LEVEL,
    STATE,
    curves_of,
    real_page,
    write_dataset,
)


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
    return real_page(shared_data, request.param, tmp_path_factory.mktemp("real"))


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


def test_values_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    def spoil(index: int, values: dict[str, np.ndarray]) -> None:
        values[STATE][1, 0] = np.nan
        values[STATE][:, 1] = np.inf

    root = write_dataset(tmp_path / "data", edit=spoil)
    write_view(root, tmp_path / "view.html", height=16)
    shoulder, gripper = parse(tmp_path / "view.html").all("figure", class_="distribution")
    assert shoulder.one("td", class_="bad").text == "3 not finite"
    assert gripper.one("td", class_="bad").text == "24 not finite"
    values = np.concatenate(
        [open_lerobot(root).read_episode(i, [STATE])[STATE][:, 0] for i in range(3)]
    )
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
        STATE: {"dtype": "float32", "shape": [2], "names": state},
        ACTION: {"dtype": "float32", "shape": [2], "names": action},
    }
    panels = pair_dimensions(dimension_names(features))
    assert [panel.name for panel in panels] == expected
    if len(expected) == 2:
        assert [dict(panel.dims) for panel in panels] == [{STATE: i, ACTION: i} for i in range(2)]


def test_nameless_features_of_different_size_are_kept_apart() -> None:
    features = {
        STATE: {"dtype": "float32", "shape": [2], "names": None},
        ACTION: {"dtype": "float32", "shape": [1], "names": None},
    }
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
    text = small_page.read_text(encoding="utf-8")
    assert not re.search(
        r"<(link|img|iframe|object|embed|base)\b|@import|url\(|\bsrc=|\bhref=", text
    )
    addresses = set(re.findall(r"\bhttps?://[^\s\"']+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert " style=" not in text
    assert_nothing_is_loaded(small_page)


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
