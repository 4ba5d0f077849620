"""`flux-eval`: rates and their intervals, seeds, reports, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.agreement import Changes
from flux_core.errors import MissingDependencyError, UsageError
from flux_core.robots import robot_spec
from flux_core.sim.libero import LiberoTask
from flux_runtime.control.episode import EpisodeResult, EpisodeTrace, run_episode
from flux_runtime.control.policy_source import HoldSource
from flux_runtime.evaluate import EvaluationOptions, evaluate, suites
from flux_runtime.evaluate.cli import main
from flux_runtime.evaluate.evaluation import pick_shown
from flux_runtime.evaluate.evaluator import EpisodeJob, Evaluator, Played
from flux_runtime.evaluate.page import PageData, write_page
from flux_runtime.evaluate.score import rate, score
from flux_runtime.evaluate.suites import SuiteTask, find_suite, select_tasks, suite_names
from flux_runtime.robots import SimulatedRobot
from flux_runtime.robots.aloha_sim import AlohaInsertionRobot
from flux_runtime.robots.libero import LiberoRobot
from flux_runtime.run.command import RunOptions, run, shipped_policy

from ...browser import assert_nothing_is_loaded, parse

ALOHA = ("--suite", "aloha-sim")
needs_sim = pytest.mark.skipif(
    not find_spec("gym_aloha"), reason="the simulated ALOHA needs flux-core[sim]"
)
MINIMUM_KEYS = {"suite", "episodes", "success_rate", "ci95", "stages", "seeds", "tasks"}
SHIPPED = shipped_policy("aloha-sim")


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Runs a command that must succeed and print one JSON object and nothing else."""
    code = main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """Runs a command that must fail with one line on stderr and nothing on stdout."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two real episodes of the shipped policy, with all possible outputs."""
    if not find_spec("gym_aloha"):
        pytest.skip("the simulated ALOHA needs flux-core[sim]")
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(
        EvaluationOptions(
            suite="aloha-sim",
            bundle=SHIPPED,
            episodes=2,
            seed=10_003,
            video=folder / "videos",
            report=folder / "page.html",
        )
    )


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        # scipy.stats.binomtest(count, total).proportion_ci(method="wilson")
        (0, 10, 0.0, 0.2775327998628892),
        (8, 10, 0.4901624715366418, 0.9433178485456247),
        (10, 10, 0.7224672001371107, 1.0),
        (431, 500, 0.8289979864047199, 0.8894819911011163),
    ],
)
def test_a_rate_has_its_wilson_interval(count: int, total: int, low: float, high: float) -> None:
    found = rate([True] * count + [False] * (total - count))
    assert found["ci95"] == pytest.approx([low, high], abs=1e-9)
    assert (found["count"], found["num_episodes"], found["rate"]) == (count, total, count / total)


def test_the_shipped_policy_is_evaluated(report: dict[str, Any]) -> None:
    assert set(report) >= MINIMUM_KEYS
    assert report["num_episodes"] == 2
    assert report["seeds"] == [10_003, 10_004]
    assert [episode["seed"] for episode in report["episodes"]] == report["seeds"]
    assert report["success_rate"] == report["strict_success_rate"] == 1.0
    assert report["ci95"] == pytest.approx([0.3423802275, 1.0])
    assert list(report["stages"]) == ["touched", "lifted", "transferred"]
    assert report["stages"]["lifted"] == rate([True, True])
    (task,) = report["tasks"]
    assert (task["task"], task["success_rate"]) == ("aloha-transfer-cube", 1.0)
    assert task["ci95"] == report["ci95"]
    assert report["prompt"] == "transfer the cube"  # the prompt that the policy was trained with
    assert report["commands_out_of_limit"] == 0


def test_an_episode_is_the_same_as_in_flux_runtime_run(report: dict[str, Any]) -> None:
    done: Any = run(RunOptions(robot="aloha-sim", episodes=1, seed=10_004))
    assert done["episodes"] == [{k: v for k, v in report["episodes"][1].items() if k != "task"}]


@needs_sim
def test_chunks_follow_each_other_as_in_flux_runtime_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = ("--episodes", "1", "--seed", "10003", "--max-steps", "60")
    chunks = ("--mode", "rtc", "--inference-delay", "4", "--execution-horizon", "12")
    found = json_of(capsys, *ALOHA, *one, *chunks)
    options = RunOptions(
        robot="aloha-sim",
        episodes=1,
        seed=10_003,
        max_steps=60,
        mode="rtc",
        inference_delay=4,
        changes=Changes(execution_horizon=12),
    )
    expected: Any = run(options)
    assert (found["mode"], found["inference_delay"]) == ("rtc", 4)
    assert found["rtc"].items() <= expected["rtc"].items()
    assert expected["rtc"]["delays"] == {"0": 1, "4": 4}
    assert [{k: v for k, v in found["episodes"][0].items() if k != "task"}] == expected["episodes"]


def test_every_video_is_written_and_holds_the_episode(report: dict[str, Any]) -> None:
    av = pytest.importorskip("av")
    names = [Path(path).name for path in report["videos"]]
    assert names == [f"aloha-transfer-cube_seed_{seed}_success.mp4" for seed in report["seeds"]]
    with av.open(report["videos"][0]) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == report["episodes"][0]["steps"] // 2  # a frame every second tick


def test_the_page_shows_rates_with_intervals_and_videos(report: dict[str, Any]) -> None:
    page = Path(report["report"]).read_text()
    assert "2 of 2 episodes, 95% interval 34% to 100%" in page
    assert page.count('src="data:video/mp4;base64,') == 2
    for text in ("<h2>Stages</h2>", "<td>34% to 100%</td>", "seed 10003", "<td>10004</td>"):
        assert text in page
    assert "http://" not in page and "https://" not in page


def test_the_page_of_hostile_tasks_loads_nothing_and_keeps_them_text(
    fakes: Any, tmp_path: Path
) -> None:
    evil = "</p><script>alert(1)</script> & 'it'"
    facts: dict[str, object] = {"prompt": evil, "bundle": evil, "engine": evil, "mode": "sync"}
    facts["golden_max_abs_error"] = None
    toy = fakes.ToyRobot()
    episodes = [
        Played(
            job=EpisodeJob(task=task, seed=1),
            result=run_episode(
                robot=toy,
                source=HoldSource(toy.spec),
                loop=fakes.FakeLoop(),
                prompt=evil,
                seed=1,
                max_steps=40,
            ),
            facts=facts,
        )
        for task in range(2)
    ]
    stages = tuple(episodes[0].result.stages)
    suite = dataclasses.replace(find_suite("aloha-sim"), stages=stages)
    tasks = [
        SuiteTask(name=f"{evil} {i}", words=evil, make_robot=AlohaInsertionRobot) for i in range(2)
    ]
    data = PageData(
        report=score(suite, tasks, episodes),
        played=episodes,
        videos={episodes[0].job: b"a film", episodes[1].job: None},
        robot=evil,
        manifest=fakes.toy_manifest(),
    )
    write_page(tmp_path / "page.html", data)
    assert_nothing_is_loaded(tmp_path / "page.html")
    page = parse(tmp_path / "page.html")
    assert not page.all("script")
    assert page.one("p", class_="muted").text.startswith(evil)
    assert page.one("figcaption").text.startswith(evil)
    assert page.one("video").attributes["src"] == "data:video/mp4;base64,YSBmaWxt"
    cells = [cell.text for cell in page.all("td")]
    assert cells.count(evil) == 2 and cells.count(f"{evil} 1") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "page.html"]


@needs_sim
def test_the_command_prints_no_rate_without_its_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*ALOHA, "--episodes", "1", "--max-steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "success     0.0% (95% interval 0.0% to 79.3%)" in out
    rates = [line for line in out.splitlines() if "%" in line]
    assert len(rates) == 5  # success, strict success, three stages
    assert all("95% interval" in line for line in rates)


@needs_sim
def test_two_workers_give_the_same_results_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*ALOHA, "--episodes", "2", "--seed", "7", "--max-steps", "40")
    one = json_of(capsys, *arguments)
    two = json_of(capsys, *arguments, "--workers", "2")
    assert one["seeds"] == [7, 8]
    # Only the times differ.
    times = {"inference_p50_ms", "jitter_p99_ms", "deadline_misses"}
    assert {key for key in one if one[key] != two[key]} <= times


@needs_sim
def test_insertion_is_evaluated_with_its_own_stages(capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(
        capsys,
        *("--suite", "aloha-insertion", "--bundle", str(SHIPPED)),
        *("--episodes", "1", "--max-steps", "20"),
    )
    assert found["suite"] == "aloha-insertion"
    assert list(found["stages"]) == ["touched", "lifted", "met", "inserted"]
    assert found["success_rate"] == 0.0  # it has never seen a peg


@needs_sim
def test_a_checkpoint_is_exported_first(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "checkpoint_epoch_1.pt"
    shutil.copyfile(tiny_run / "checkpoint_epoch_1.pt", checkpoint)
    arguments = ("--checkpoint", str(checkpoint), "--episodes", "1", "--max-steps", "2")
    found = json_of(capsys, *ALOHA, *arguments)
    assert found["bundle"] == str(tmp_path / "checkpoint_epoch_1")
    assert (tmp_path / "checkpoint_epoch_1" / "manifest.json").is_file()


def test_a_checkpoint_without_the_packages_for_exporting_is_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("policy", "writer"):
        monkeypatch.delitem(sys.modules, f"flux_runtime.export.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    line = refused(capsys, *ALOHA, "--checkpoint", str(tmp_path / "checkpoint_epoch_1.pt"))
    assert "onnx: not installed. Install it with: pip install 'flux-runtime[export]'" in line


def test_an_unknown_suite_is_answered_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refused(capsys, "--suite", "aloha", code=2)
    assert f"--suite: expected one of {', '.join(suite_names())}, got aloha" in line


def test_a_suite_may_be_written_with_underscores() -> None:
    assert find_suite("libero_10") is find_suite("libero-10")
    assert find_suite("aloha_sim") is find_suite("aloha-transfer-cube")


def test_a_suite_without_a_shipped_policy_needs_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "aloha-insertion"
    without = dataclasses.replace(find_suite(name), shipped_policy=None)
    monkeypatch.setitem(suites.SUITES, name, without)
    line = refused(capsys, "--suite", name, code=2)
    assert "flux ships none for this suite. Name one with --bundle DIR or --checkpoint F" in line


def test_a_bundle_and_a_checkpoint_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*ALOHA, "--bundle", "a", "--checkpoint", "b"])
    assert caught.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_bundle_for_another_robot_is_refused(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *ALOHA, "--bundle", str(toy_bundle))
    assert "robots: expected aloha-sim, got toy" in line


def test_a_report_that_could_not_be_written_is_refused_before_anything_moves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *ALOHA, "--report", str(tmp_path / "no" / "where.html"), code=2)
    assert "expected a file in a directory that exists" in line
    (tmp_path / "file").touch()
    line = refused(capsys, *ALOHA, "--video", str(tmp_path / "file"), code=2)
    assert "cannot be created (File exists). Name another directory." in line


@pytest.mark.skipif(bool(find_spec("libero")), reason="LIBERO is installed here")
def test_a_missing_libero_is_one_line_with_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refused(capsys, "--suite", "libero-goal", "--bundle", "x")
    assert "Make one that has it with 'bash scripts/setup_libero.sh'" in line


def three_tasks() -> Any:
    suite = find_suite("libero-object")
    words = ("pick up the soup", "pick up the milk", "pick up the soup can")
    tasks = tuple(
        dataclasses.replace(
            select_tasks(find_suite("aloha-sim"), ())[0],
            name=text.replace(" ", "_"),
            words=text,
        )
        for text in words
    )
    return dataclasses.replace(suite, list_tasks=lambda: tasks)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ((), [0, 1, 2]),
        (("1",), [1]),
        (("milk", "0"), [0, 1]),
        (("pick up the soup",), [0]),
        (("soup_can",), [2]),
    ],
)
def test_tasks_are_named_by_number_name_or_part(wanted: tuple[str, ...], found: list[int]) -> None:
    suite = three_tasks()
    tasks = suite.list_tasks()
    assert select_tasks(suite, wanted) == tuple(tasks[i] for i in found)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("tea", "--task tea: no such task. Name one of libero-object's by its number, 0 to 2"),
        ("soup", "--task soup: 2 tasks have that in their names"),
        ("3", "--task 3: no such task"),
    ],
)
def test_a_task_that_matches_none_or_several_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        select_tasks(three_tasks(), (wanted,))


def played(task: int, seed: int, success: bool) -> Played:
    result = EpisodeResult(
        seed=seed,
        steps=1,
        success=success,
        strict_success=success,
        stages={"transferred": success, "held_by_left_only": success},
        commands_out_of_limit=0,
        stats={},
        trace=EpisodeTrace(commands=[np.zeros(14, np.float32)]),
    )
    return Played(job=EpisodeJob(task=task, seed=seed), result=result, facts={})


def test_the_page_shows_failures_of_different_tasks_first() -> None:
    episodes = [played(task, seed, success=seed == 2) for task in range(2) for seed in range(4)]
    shown = [(episode.job.task, episode.job.seed) for episode in pick_shown(episodes)]
    assert shown == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 2)]


@needs_sim
def test_a_video_that_would_show_something_else_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    evaluator = Evaluator(EvaluationOptions(suite="aloha-sim", bundle=SHIPPED))
    try:
        assert evaluator.film(played(0, 5, success=True)) is None
    finally:
        evaluator.close()
    assert "seed 5: no video, because the episode ended differently" in caplog.text


def test_the_robots_of_the_suites_are_simulated_robots() -> None:
    task = LiberoTask(suite="libero-goal", index=0, name="a_b", language="a b")
    for robot in (AlohaInsertionRobot(), LiberoRobot(task)):
        assert isinstance(robot, SimulatedRobot)
        robot.close()
    assert LiberoRobot(task).task == "a b"
    assert LiberoRobot(task).spec == robot_spec("libero")
    if not find_spec("libero"):
        with pytest.raises(MissingDependencyError, match=r"setup_libero\.sh"):
            LiberoRobot(task).connect()


@pytest.mark.skipif(
    "FLUX_LIBERO_PYTHON" not in os.environ,
    reason="needs LIBERO: bash scripts/setup_libero.sh, and FLUX_LIBERO_PYTHON=its interpreter",
)
def test_random_weights_run_in_libero(libero_bundle: Path, tmp_path: Path) -> None:
    arguments = ("--suite", "libero-object", "--bundle", str(libero_bundle), "--task", "0")
    done = subprocess.run(
        [
            *(os.environ["FLUX_LIBERO_PYTHON"], "-m", "flux_runtime.evaluate", *arguments),
            *("--episodes", "2", "--max-steps", "12", "--json"),
            *("--report", str(tmp_path / "page.html")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["success_rate"] == 0.0 and found["seeds"] == [0, 1]
    assert found["ticks"] == 24 and found["chunks"] == 4
    assert found["commands_out_of_limit"] == 0
    assert found["prompt"] == "pick up the alphabet soup and place it in the basket"
    assert (tmp_path / "page.html").read_text().count("data:video/mp4") == 2
