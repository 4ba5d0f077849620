"""`flux-train report`: what it reads, the page as a file, and what a real browser shows."""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from flux_core.errors import DataError, UsageError
from flux_train.report import write_report
from flux_train.report.curves import MAX_POINTS
from flux_train.report.history import edges, read_history, steps_per_epoch, thin
from flux_train.validation.predictions import EpisodePrediction, prediction_path, save_predictions

from ...browser import Browser, assert_nothing_is_loaded, data_of, open_browser, parse

EVIL = "</script><script>alert(1)</script><!-- \"arm\" 'x' & <b>"
DIMS = {"aloha": 14, "ur3": 3}
STEPS_PER_EPOCH, INTERVAL, NUM_LINES, NUM_VALIDATIONS = 37, 10, 30, 3
FRAMES, HORIZON, LENGTH = (0, 6, 12, 18), 5, 20
LEVEL = 12
"""How much brighter each frame of the shown episode is than the one before."""


def loss_at(step: int, group: str = "") -> float:
    return (1.0 + len(group)) / step


def train_line(step: int, dims: dict[str, int]) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": -(-step // STEPS_PER_EPOCH),
        "loss": loss_at(step),
        "loss_by_robot": {group: loss_at(step, group) for group in dims},
        "loss_by_dimension": {
            group: [loss_at(step, group) * (dim + 1) for dim in range(count)]
            for group, count in dims.items()
        },
        "learning_rate": 1e-4,
        "grad_norm": 3.0,
        "samples_per_s": 200.0,
        "data_wait_share": 0.25,
        "mfu": None,
        "peak_memory_bytes": 3 * 2**30,
        "skipped_steps": 2,
        "a_key_of_the_future": {"x": ["text", None, {}]},
    }


def validation_line(step: int, dims: dict[str, int]) -> dict[str, Any]:
    errors = {
        group: {
            name: [size * (dim + 1) / step for dim in range(count)]
            for name, size in (("mean_abs", 2.0), ("first_step", 1.0), ("after_prefix", 0.5))
        }
        | {"last_step": [None] * count}
        for group, count in dims.items()
    }
    losses = {group: 2 * loss_at(step, group) for group in dims}
    values = {"loss": 2 * loss_at(step), "loss_by_robot": losses, "action_error": errors}
    return {"step": step, "epoch": 1, "validation": values}


def jpeg(level: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), level, np.uint8)).save(data, "JPEG")
    return data.getvalue()


def prediction(group: str, step: int, count: int) -> EpisodePrediction:
    """An episode of straight lines; a policy of step s is off by 100 / s."""
    actions = np.arange(LENGTH)[:, None] + np.arange(count, dtype=np.float32)[None]
    rows = np.asarray(FRAMES)[:, None] + 1 + np.arange(HORIZON)
    recorded = actions[np.minimum(rows, LENGTH - 1)].astype(np.float32)
    return EpisodePrediction(
        group=group,
        episode=4,
        fps=10.0,
        dimensions=tuple(f"joint_{dim}" for dim in range(count)),
        cameras=("cam_high", "cam_wrist"),
        first_step=1,
        frames=np.asarray(FRAMES),
        predicted=recorded + np.float32(100 / step),
        recorded=recorded,
        masks=rows < LENGTH,
        actions=actions.astype(np.float32),
        pictures=[[jpeg(LEVEL * frame), jpeg(255 - LEVEL * frame)] for frame in FRAMES],
    )


def write_run(work_dir: Path, dims: dict[str, int], *, max_steps: int = 300) -> Path:
    """300 steps, a line every ten of them, and three validations."""
    work_dir.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for step in range(INTERVAL, INTERVAL * (NUM_LINES + 1), INTERVAL):
        lines.append(train_line(step, dims))
        if step % (INTERVAL * NUM_LINES // NUM_VALIDATIONS) == 0:
            lines.append(validation_line(step, dims))
            predictions = [prediction(group, step, count) for group, count in dims.items()]
            save_predictions(prediction_path(work_dir, step), predictions)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (work_dir / "metrics.jsonl").write_text(text + '{"step": 310, "lo')
    config = {
        "model": {"type": "PI05FlowMatching", "n_action_steps": HORIZON},
        "train_dataloader": {
            "per_device_batch_size": 8,
            "dataset": {
                "datasets": {group: [{"data_root_path": f"/data/{EVIL}"}] for group in dims}
            },
        },
        "runner": {"type": "SingleTrainRunner", "max_steps": max_steps, "learning_rate": 1e-4},
        "inference": {"robot": "ur3"},
    }
    (work_dir / "config.json").write_text(json.dumps(config))
    environment = {"git": {"commit": "0123456789abcdef", "is_dirty": True}, "resumed_steps": [120]}
    (work_dir / "environment.json").write_text(json.dumps(environment))
    save_file(
        {"a": np.zeros((3, 5)), "b": np.zeros(2)}, work_dir / "checkpoint_epoch_1.safetensors"
    )
    return work_dir


def facts_of(page: Path) -> dict[str, str]:
    tree = parse(page)
    terms, values = tree.all("dt"), tree.all("dd")
    return {term.text: value.text for term, value in zip(terms, values, strict=True)}


def floats_of(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with two robots."""
    work_dir = write_run(tmp_path_factory.mktemp("work") / "fold <b>", DIMS)
    write_report(work_dir)
    return work_dir / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real one."""
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


# ---- What it reads


def test_lines_are_read_whatever_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 1, "loss": 4.0}',
        "",
        "no json",
        "[1, 2]",
        '{"loss": 1.0}',
        '{"step": 2, "loss": NaN, "new": 7, "loss_by_dimension": {"ur3": [1.0, null]}}',
        '{"step": 3, "loss": 3.0, "loss_by_robot": {"ur3": 3.0}}',
        '{"step": 3, "validation": {"loss": 9.0}}',
        '{"step": 2, "loss": 2.0}',  # a run that has gone on from step 1
        '{"step": 4, "los',
    ]
    path.write_text("\n".join(lines))
    history = read_history(path)
    assert history.num_broken == 4
    assert history.train.steps.tolist() == [1, 2, 3]
    assert history.train.scalar("loss").tolist() == [4, 2, 3]
    np.testing.assert_array_equal(history.train.scalar("loss_by_robot/ur3"), [np.nan, np.nan, 3])
    assert np.isnan(history.train.vectors["loss_by_dimension/ur3"]).all()
    assert np.isnan(history.train.scalar("grad_norm")).all()
    assert history.validation.last("loss") == 9.0
    assert history.last_step == 3


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 300))
def test_the_length_of_an_epoch_is_found_as_well_as_lines_tell(
    length: int, interval: int, count: int
) -> None:
    steps = range(interval, interval * (count + 1), interval)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        lines = [json.dumps({"step": s, "epoch": -(-s // length)}) for s in steps]
        path.write_text("\n".join(lines))
        found = steps_per_epoch(read_history(path).train)
    if steps[-1] <= length:
        assert found is None
    else:
        assert found is not None
        assert abs(found - length) <= interval


@given(st.integers(0, 500), st.integers(1, 60))
def test_thinned_points_keep_means_and_extremes(count: int, most: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    values[count // 3 : count // 2] = np.nan
    starts = edges(count, most)
    assert len(starts) == min(count, most)
    points = thin(values, starts)
    for part, mean, low, high in zip(
        np.split(values, starts[1:]), points.mean, points.low, points.high, strict=False
    ):
        finite = part[np.isfinite(part)]
        if len(finite):
            assert (low, high) == (finite.min(), finite.max())
            assert mean == pytest.approx(finite.mean(), abs=1e-12)
        else:
            assert np.isnan([mean, low, high]).all()


def test_a_run_of_very_many_lines_is_a_small_page(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 200_001):
            loss = 1e6 if step == 77_777 else 1.0
            file.write(f'{{"step":{step},"epoch":1,"loss":{loss},"grad_norm":2.0}}\n')
    told = write_report(tmp_path)
    assert told["num_lines"] == 200_000
    assert told["bytes"] < 200_000
    train = data_of(parse(tmp_path / "report.html"), "page-data")["train"]
    assert len(floats_of(train["steps"])) == MAX_POINTS
    assert floats_of(train["steps"])[-1] == 200_000
    assert floats_of(train["series"]["loss"]["high"]).max() == 1e6  # a spike is not lost


# ---- The page as a file


def test_the_page_tells_where_the_run_stands(page: Path) -> None:
    facts = facts_of(page)
    assert facts["Step"] == "300 of 300"
    assert facts["Epoch"] == "9"
    assert facts["Held-out loss"] == "0.00667"
    assert facts["Best held-out"] == "0.00667 at step 300"
    assert facts["Waiting for data"] == "25%"
    assert facts["Peak memory"] == "3 GiB"
    assert facts["Parameters"] == "17"
    assert facts["Skipped steps"] == "2"
    assert "MFU" not in facts
    assert facts["Resumed at step"] == "120"
    assert facts["Code"] == "0123456789ab, with changes"
    assert facts["Data"] == f"/data/{EVIL}"
    assert parse(page).one("span", class_="pill").text == "finished"


def test_the_report_is_returned_as_values(page: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere.html"
    out.write_text("an older page")
    assert write_report(page.parent, out) == {
        "out": str(out),
        "bytes": out.stat().st_size,
        "step": 300,
        "total_steps": 300,
        "loss": pytest.approx(np.mean([loss_at(s) for s in (280, 290, 300)])),
        "validation_loss": 2 * loss_at(300),
        "num_lines": NUM_LINES,
        "num_validations": NUM_VALIDATIONS,
        "num_broken_lines": 1,
    }
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("weights", "decay", "expected"),
    [
        ("average", 0.99, "moving average (decay 0.99), as deployed"),
        ("current", 0.0, "current, as deployed"),
        # An older version validated the current weights of every run.
        (None, 0.99, "current; the moving average is deployed"),
    ],
)
def test_the_page_tells_which_weights_were_validated(
    tmp_path: Path, weights: str | None, decay: float, expected: str
) -> None:
    said = {} if weights is None else {"weights": weights}
    lines = [{"step": n, "validation": {**said, "loss": float(n)}} for n in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "config.json").write_text(json.dumps({"runner": {"ema_decay": decay}}))
    assert write_report(tmp_path).get("validation_weights") == weights
    assert facts_of(tmp_path / "report.html")["Held-out weights"] == expected


def test_the_best_validation_is_one_of_the_weights_that_are_deployed(tmp_path: Path) -> None:
    losses = {1: ("current", 0.1), 2: ("average", 0.3), 3: ("average", 0.4)}
    lines = [
        {"step": step, "validation": {"weights": weights, "loss": loss}}
        for step, (weights, loss) in losses.items()
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_report(tmp_path)
    assert facts_of(tmp_path / "report.html")["Best held-out"] == "0.3 at step 2"


def test_the_numbers_on_the_page_are_those_of_the_run(page: Path) -> None:
    data = data_of(parse(page), "page-data")
    steps = floats_of(data["train"]["steps"])
    np.testing.assert_array_equal(steps, range(10, 301, 10))
    for name, group in (("loss", ""), ("loss_by_robot/ur3", "ur3")):
        values = floats_of(data["train"]["series"][name]["mean"])
        np.testing.assert_allclose(values, [loss_at(int(s), group) for s in steps], rtol=1e-6)
        values = floats_of(data["validation"]["series"][name]["mean"])
        expected = [2 * loss_at(s, group) for s in (100, 200, 300)]
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    ur3 = data["dimensions"]["ur3"]
    errors = floats_of(ur3["errors"]["mean_abs"]).reshape(3, 3)
    np.testing.assert_allclose(errors[1], [0.01, 0.02, 0.03], rtol=1e-6)
    assert np.isnan(floats_of(ur3["errors"]["last_step"])).all()
    assert ur3["names"] == ["joint_0", "joint_1", "joint_2"]
    sample = data["samples"]["ur3"]
    assert (sample["steps"], sample["frames"]) == ([100, 200, 300], list(FRAMES))
    assert sample["real"] == [5, 5, 5, 1]


def test_nothing_outside_the_page_is_referenced_and_text_stays_text(page: Path) -> None:
    text, tree = page.read_text(encoding="utf-8"), parse(page)
    assert not re.search(r"<(link|iframe|object|embed|base)\b|@import|url\(|\bsrc=|\bhref=", text)
    assert set(re.findall(r"\bhttps?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert " style=" not in text
    assert_nothing_is_loaded(page)
    assert tree.one("title").text == "fold <b>: training"
    (script,) = [node for node in tree.all("script") if "type" not in node.attributes]
    assert "alert" not in script.text
    assert (
        EVIL
        in json.loads(tree.all("pre")[0].text)["train_dataloader"]["dataset"]["datasets"]["ur3"][0][
            "data_root_path"
        ]
    )


def test_dimensions_without_predictions_are_named_by_their_robot(tmp_path: Path) -> None:
    work_dir = write_run(tmp_path / "run", {"ur3": 7})
    for path in (work_dir / "validation").iterdir():
        path.unlink()
    write_report(work_dir)
    data = data_of(parse(work_dir / "report.html"), "page-data")
    assert data["dimensions"]["ur3"]["names"][0] == "shoulder_pan"
    assert data["samples"] == {}


def test_predictions_of_an_earlier_attempt_and_damaged_ones_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work_dir = write_run(tmp_path / "run", {"ur3": 3})
    save_predictions(prediction_path(work_dir, 999), [prediction("ur3", 999, 3)])
    prediction_path(work_dir, 200).write_bytes(b"PK no archive")
    write_report(work_dir)
    data = data_of(parse(work_dir / "report.html"), "page-data")
    assert data["samples"]["ur3"]["steps"] == [100, 300]
    assert "step_200.npz: cannot be read" in caplog.text


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert write_report(tmp_path)["loss"] is None
    assert "has not logged anything yet" in (tmp_path / "report.html").read_text()


def test_senseless_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: expected the work dir of a run, got a path"):
        write_report(tmp_path / "gone")
    with pytest.raises(DataError, match=r"metrics.jsonl: not found. Is '.*' the work dir of a run"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    for out in (tmp_path, tmp_path / "nowhere" / "report.html"):
        with pytest.raises(UsageError, match="expected a file in a directory that exists"):
            write_report(tmp_path, out)


def test_a_stopped_run_says_so(tmp_path: Path) -> None:
    work_dir = write_run(tmp_path / "run", {"ur3": 3}, max_steps=1000)
    assert write_report(work_dir)["total_steps"] == 1000
    assert parse(work_dir / "report.html").one("span", class_="pill").text == "running or stopped"


def test_a_real_run_has_a_report(tiny_run: Path, tmp_path: Path, browser: Browser) -> None:
    out = tmp_path / "report.html"
    told = write_report(tiny_run, out)
    assert (told["step"], told["num_validations"]) == (4, 0)
    assert facts_of(out)["Model"] == "PI05FlowMatching"
    assert browser.run(out, "await until(() => shown.ready); return shown.errors;") == "0"


# ---- The page in a browser


def test_the_cursor_tells_the_values_of_every_chart(page: Path, browser: Browser) -> None:
    program = """
      await until(() => shown.ready);
      const text = (id) => document.getElementById(id).textContent;
      const chart = document.querySelector("#loss .chart");
      const bounds = chart.querySelector("svg").getBoundingClientRect();
      const point = (type, share) => chart.dispatchEvent(new PointerEvent(type, {
        clientX: bounds.left + share * bounds.width, clientY: bounds.top + 9, bubbles: true }));
      const legend = () => [...document.querySelectorAll(".legend button")]
        .map((button) => button.textContent);
      const told = {};
      point("pointermove", 0.334);
      told.moment = text("moment");
      told.legend = legend();
      told.run = [...document.querySelectorAll("#run-curves figcaption")]
        .map((caption) => caption.textContent);
      document.querySelector("#axis [data-value=epoch]").click();
      told.epoch = text("moment");
      point("pointerleave", 0);
      told.left = text("moment");
      told.errors = shown.errors;
      return told;
    """
    told = browser.run(page, program)
    assert told["moment"] == "step 100"
    assert told["legend"] == [
        "all 0.0100held-out 0.0200",
        "aloha 0.0600held-out 0.120",
        "ur3 0.0400held-out 0.0800",
    ]
    assert told["run"] == [
        "learning rate1.0e−4",
        "gradient norm3",
        "samples per second200",
        "waiting for data25%",
        "peak memory3 GiB",
    ]
    assert re.fullmatch(r"epoch 2\.7\d", told["epoch"])
    assert (told["left"], told["errors"]) == ("", "0")


def test_toggles_do_what_they_say(page: Path, browser: Browser) -> None:
    program = """
      await until(() => shown.ready);
      const svg = document.querySelector("#loss svg");
      const click = (selector) => document.querySelector(selector).click();
      const labels = () => [...document.querySelectorAll("#loss small")].map((l) => l.textContent);
      const count = (kind) => svg.querySelectorAll(kind).length;
      const told = { log: labels(), dots: count(".dots") };
      told.raw = count(".raw"); told.lines = count(".line");
      click("#scale [data-value=linear]"); told.linear = labels();
      const slider = document.getElementById("smoothing");
      slider.value = 0; slider.dispatchEvent(new Event("input"));
      told.unsmoothed = count(".raw");
      told.ends = svg.querySelector(".line.all").getAttribute("d").split("L").length;
      click(".legend button"); told.without = count(".line");
      click(".legend button"); told.again = count(".line");
      const chart = document.querySelector("#loss .chart");
      chart.setPointerCapture = () => {};
      const bounds = svg.getBoundingClientRect();
      const point = (type, share) => chart.dispatchEvent(new PointerEvent(type, { button: 0,
        clientX: bounds.left + share * bounds.width, clientY: bounds.top + 9, bubbles: true }));
      const ends = () => [...document.querySelectorAll("#run-curves .across")][0].textContent;
      told.whole = ends();
      point("pointerdown", 1 / 3); point("pointermove", 0.5); point("pointerup", 2 / 3);
      told.zoomed = ends();
      told.button = document.getElementById("whole").hidden;
      click("#whole"); told.back = ends();
      told.errors = shown.errors;
      return told;
    """
    told = browser.run(page, program)
    assert {"0.01", "0.1"} <= set(told["log"])
    assert told["linear"][0] == "0"
    assert (told["raw"], told["lines"], told["dots"]) == (3, 3, 3)
    assert (told["unsmoothed"], told["ends"]) == (0, NUM_LINES)
    assert (told["without"], told["again"]) == (2, 3)
    assert (told["whole"], told["zoomed"], told["back"]) == ("0300", "100200", "0300")
    assert (told["button"], told["errors"]) == (False, "0")


def test_each_robot_has_its_dimensions(page: Path, browser: Browser) -> None:
    program = """
      await until(() => shown.ready);
      const rows = () => [...document.querySelectorAll("#dimensions tbody tr")].map((row) =>
        [...row.children].map((cell) => cell.textContent).filter(Boolean));
      const told = { aloha: rows().length, group: shown.group };
      document.querySelector("#group [data-value=ur3]").click();
      told.rows = rows();
      told.charts = document.querySelectorAll("#errors figure").length;
      told.error = document.querySelector("#errors figcaption").textContent;
      told.errors = shown.errors;
      return told;
    """
    told = browser.run(page, program)
    assert (told["aloha"], told["group"], told["charts"]) == (14, "aloha", 3)
    first, last = (
        np.mean([loss_at(s, "ur3") for s in steps]) for steps in ((10, 20, 30), (280, 290, 300))
    )
    for dim, row in enumerate(told["rows"]):
        assert row[0] == f"joint_{dim}"
        assert float(row[1]) == pytest.approx(last * (dim + 1), rel=0.005)
        assert row[2] == f"−{100 * (1 - last / first):.1f}%"
        errors = [float(error) for error in row[3:5]]
        assert errors == pytest.approx([2 * (dim + 1) / 300, (dim + 1) / 300], rel=0.005)
        assert row[5] == "–"
        assert float(row[6]) == pytest.approx(0.5 * (dim + 1) / 300, rel=0.005)
    assert told["error"] == "joint_00.006670.00333–0.00167"
    assert told["errors"] == "0"


@pytest.mark.parametrize("dark", [False, True])
def test_predictions_follow_their_sliders(page: Path, browser: Browser, dark: bool) -> None:
    program = """
      await until(() => shown.ready);
      const set = (id, value) => {
        const slider = document.getElementById(id);
        slider.value = value;
        slider.dispatchEvent(new Event("input"));
      };
      const press = (key) => document.body.dispatchEvent(
        new KeyboardEvent("keydown", { key, bubbles: true }));
      const level = async (image) => {
        await image.decode();
        const canvas = document.createElement("canvas");
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.getContext("2d").getImageData(5, 5, 1, 1).data[1];
      };
      const seen = async () => [shown.frame, shown.policy,
        document.querySelector("#samples output.muted").textContent,
        ...await Promise.all([...document.querySelectorAll("#cameras img")].map(level))];
      const told = { first: await seen() };
      set("frame", 2); set("policy", 0); told.moved = await seen();
      press("ArrowRight"); press("n"); told.pressed = await seen();
      press("ArrowRight"); told.end = shown.frame;
      told.ground = getComputedStyle(document.body).backgroundColor;
      told.errors = shown.errors;
      return told;
    """
    told = browser.run(page, program, dark=dark)
    for name, frame, step in (("first", 0, 300), ("moved", 12, 100), ("pressed", 18, 200)):
        at, policy, error, high, wrist = told[name]
        assert (at, policy) == (str(frame), str(step))
        assert float(error.removeprefix("off by ")) == pytest.approx(100 / step, rel=0.005)
        assert abs(high - LEVEL * frame) < 4
        assert abs(wrist - (255 - LEVEL * frame)) < 4
    assert told["end"] == "18"
    assert told["ground"] == ("rgb(20, 23, 27)" if dark else "rgb(247, 247, 245)")
    assert told["errors"] == "0"


def test_pages_of_half_a_run_work(tmp_path: Path, browser: Browser) -> None:
    """No lines at all, training alone as older runs wrote it, validation alone."""
    old = {"step": 10, "epoch": 1, "loss": 0.5, "learning_rate": 1e-4}
    for name, lines in (
        ("none", []),
        ("old", [old]),
        ("validation", [validation_line(100, {"ur3": 3})]),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_report(folder)
        program = "await until(() => shown.ready); return shown.errors;"
        assert browser.run(folder / "report.html", program) == "0", name
