"""`flux-runtime run --robot dataset:DIR`: recordings as the robot, and predictions against them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.errors import DataError, MissingDependencyError, RobotError
from flux_core.types import Observation
from flux_data.dataset_robot import DatasetRobot
from flux_data.lerobot import WRITERS, EpisodeRecorder, vector_feature, video_feature
from flux_runtime.cli import main
from flux_runtime.predictions import Chunk, Comparison
from flux_runtime.robots import RobotRequest, SimulatedRobot, choose_robot, make_robot
from flux_train.recipes import SmallRobot, small_data

from ...robots.policy import write_bundle
from .conftest import LENGTHS, OFF, SPEC, TASKS, on_circle

Recordings = Callable[[str], Path]
Printed = pytest.CaptureFixture[str]


def run(*options: str) -> int:
    return main(["run", *options])


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_predictions_are_compared_with_the_recorded_actions(
    version: str, recordings: Recordings, circling: Path, core: Any, capsys: Printed
) -> None:
    robot = f"dataset:{recordings(version)}"
    assert run("--robot", robot, "--bundle", str(circling), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [episode["steps"] for episode in report["episodes"]] == list(LENGTHS)
    assert report["success_rate"] is None and report["robot"] == "round"
    found = report["predicted_against_recorded"]
    asked = [{"episode": e, "task": t, "chunks": n} for e, (t, n) in enumerate(chunks())]
    assert found["episodes"] == asked
    # 16 rows are predicted every 8 steps; at an episode's end, fewer were recorded.
    assert found["actions"] == sum(
        min(16, length - step) for length in LENGTHS for step in range(0, length, 8)
    )
    for joint, error in {"shoulder": 0, "elbow": OFF, "gripper": 0}.items():
        entry = found["joints"][joint]
        assert entry["mean_abs_error"] == pytest.approx(error, abs=1e-5)
        assert entry["worst"] == pytest.approx(error, abs=1e-5)
        assert entry["mean_abs_error_by_offset"] == pytest.approx([error] * 16, abs=1e-5)
    assert found["joints"]["shoulder"]["mean_abs_error_of_holding"] > 0.05
    assert found["joints"]["gripper"]["mean_abs_error_of_holding"] == pytest.approx(0, abs=1e-6)


def chunks() -> list[tuple[str, int]]:
    return [(task, -(-length // 8)) for task, length in zip(TASKS, LENGTHS, strict=True)]


def test_the_page_draws_each_joint_and_the_terminal_names_the_worst(
    recordings: Recordings, circling: Path, core: Any, tmp_path: Path, capsys: Printed
) -> None:
    pytest.importorskip("matplotlib", reason="reports need flux-runtime[report]")
    page = tmp_path / "report.html"
    options = ("--bundle", str(circling), "--episodes", "1", "--report", str(page))
    assert run("--robot", f"dataset:{recordings('v2.1')}", *options) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "predicted 52 actions, compared with the recorded ones" in told
    assert "largest mean error: elbow 0.125" in told
    text = page.read_text()
    assert "Predicted against recorded actions" in text and "Episode 0: circle" in text
    for joint in SPEC.joint_names:
        assert f"{joint}, recorded and predicted, episode 0" in text
        assert f"error of {joint} by offset" in text


def test_a_task_of_ones_own_is_asked_for_in_every_episode(
    recordings: Recordings, circling: Path, core: Any, capsys: Printed
) -> None:
    options = ("--bundle", str(circling), "--task", "fold", "--max-steps", "9", "--json")
    assert run("--robot", f"dataset:{recordings('v2.1')}", *options) == 0
    report = json.loads(capsys.readouterr().out)
    episodes = report["predicted_against_recorded"]["episodes"]
    assert [(each["task"], each["chunks"]) for each in episodes] == [("fold", 2)] * 2


def test_the_robot_shows_each_frame_for_one_control_step(recordings: Recordings) -> None:
    robot = DatasetRobot(directory=str(recordings("v2.1")))
    assert isinstance(robot, SimulatedRobot)
    robot.connect()
    for episode, length in enumerate((*LENGTHS, LENGTHS[0])):
        robot.reset(99)
        assert robot.episode_index == episode % 2 and robot.task == TASKS[episode % 2]
        for step in range(length):
            assert not robot.is_over and robot.frame == step
            seen: Observation = robot.observe("", ["top"])
            assert seen.state == pytest.approx(on_circle([step + 7 * (episode % 2)])[0])
            assert seen.timestamp_s == pytest.approx(step / 10)
            grey = (8 * step + 100 * (episode % 2)) % 256
            assert abs(int(seen.images["top"].mean()) - grey) <= 3  # of a compressed video
            assert robot.recorded_actions(3).shape == (min(3, length - step), 3)
            robot.command(np.zeros(3, np.float32))
        assert robot.is_over and robot.recorded_actions(3).shape == (0, 3)


def test_frames_are_found_by_time_at_another_control_rate(recordings: Recordings) -> None:
    spec = asdict(replace(SPEC, control_hz=20.0))
    robot = DatasetRobot(directory=str(recordings("v2.1")), spec=spec, cameras={"top": None})
    robot.connect()
    frames = []
    while not robot.is_over:
        frames.append(robot.frame)
        robot.command(np.zeros(3, np.float32))
    assert frames == sorted(frames) and set(frames) == set(range(LENGTHS[0]))
    assert abs(len(frames) - 2 * LENGTHS[0]) <= 1


def test_without_a_bundle_the_recordings_describe_their_robot(recordings: Recordings) -> None:
    spec = DatasetRobot(directory=str(recordings("v2.1"))).spec
    assert (spec.name, spec.cameras, spec.control_hz) == ("round", ("top",), 10.0)
    assert spec.joint_names == SPEC.joint_names
    assert all(low <= -0.2 for low in spec.lower[:1]) and all(x >= 0.2 for x in spec.upper)
    # 0.2 rad at 1 rad/s
    assert 0.2 < spec.max_velocity[0] < 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"joint_names": ("elbow", "shoulder", "gripper")},
            "expected elbow in dimension 0, got sh",
        ),
        (
            {
                name: (*getattr(SPEC, name), getattr(SPEC, name)[-1])
                for name in ("lower", "upper", "max_velocity", "units")
            }
            | {"joint_names": (*SPEC.joint_names, "wrist")},
            "expected states of 4 dimensions, got 3",
        ),
        ({"cameras": ("side",)}, "expected a camera of the dataset"),
    ],
)
def test_recordings_of_another_robot_are_refused(
    changes: dict[str, Any], message: str, recordings: Recordings
) -> None:
    spec = replace(SPEC, **changes)
    cameras = dict.fromkeys(spec.cameras)
    with pytest.raises(Exception, match=message) as caught:
        make_robot(
            "dataset:set",
            "flux_data.dataset_robot:DatasetRobot",
            {"directory": str(recordings("v2.1")), "spec": asdict(spec), "cameras": cameras},
        )
    assert "\n" not in str(caught.value)
    with pytest.raises(RobotError, match="fails .TypeError"):
        make_robot("dataset:set", "flux_data.dataset_robot:DatasetRobot", {"folder": "set"})


def test_episodes_are_chosen_by_their_numbers(recordings: Recordings, tmp_path: Path) -> None:
    robot = DatasetRobot(directory=str(recordings("v2.1")), episodes=[1])
    robot.reset(0)
    assert (robot.num_episodes, robot.longest_episode, robot.episode_index) == (1, 20, 1)
    file = tmp_path / "robot.json"
    file.write_text('{"episodes": [2]}')
    choice = choose_robot(RobotRequest(name=f"dataset:{recordings('v2.1')}", config_file=file))
    with pytest.raises(Exception, match=r"episodes: expected numbers from 0 to 1, got 2"):
        make_robot(choice.name, choice.target, choice.arguments)


def test_without_flux_data_one_line_says_what_to_install(
    recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "flux_data" else find(name)
    )
    with pytest.raises(MissingDependencyError, match="recordings need flux-data, .* pip install"):
        choose_robot(RobotRequest(name=f"dataset:{recordings('v2.1')}"))


def test_real_time_is_refused_because_a_recording_follows_no_command(
    recordings: Recordings, capsys: Printed
) -> None:
    options = ("--policy", "hold", "--realtime")
    assert run("--robot", f"dataset:{recordings('v2.1')}", *options) == 2
    assert "a recording does not follow commands" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v21", "v30c", "g1_real"])
def test_recordings_of_strangers_are_played(
    name: str, shared_data: Path, core: Any, capsys: Printed
) -> None:
    options = ("--policy", "hold", "--episodes", "2", "--json")
    assert run("--robot", f"dataset:{shared_data / 'lerobot' / name}", *options) == 0
    report = json.loads(capsys.readouterr().out)
    steps = [episode["steps"] for episode in report["episodes"]]
    assert steps == ([393, 343] if name == "g1_real" else [150, 150])
    assert "predicted_against_recorded" not in report


def test_a_policy_that_was_trained_on_them_finds_its_columns_and_cameras(
    shared_data: Path, tiny_export: Path, core: Any, capsys: Printed
) -> None:
    options = ("--bundle", str(tiny_export / "bundle"), "--episodes", "1", "--max-steps", "20")
    robot = f"dataset:{shared_data / 'lerobot' / 'v21'}"
    assert run("--robot", robot, *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    found = report["predicted_against_recorded"]
    assert found["episodes"][0]["task"] == "pick up the yellow chicken toy with left arm"
    assert len(found["joints"]) == 14 and found["actions"] > 0


def test_a_prediction_that_is_no_number_is_the_worst() -> None:
    comparison = Comparison(("a",), 2, num_drawn=1)
    comparison.begin(4, "task")
    rows = np.array([[1.0], [np.nan]], np.float32)
    recorded = np.zeros((2, 1), np.float32)
    comparison.add(Chunk(step=8, predicted=rows, recorded=recorded), None)
    entry = comparison.as_data()["joints"]["a"]
    assert entry["worst_at"] == {"episode": 4, "step": 8, "offset": 1}
    assert np.isnan(entry["worst"]) and entry["mean_abs_error_of_holding"] is None


def test_a_real_robots_recordings_are_predicted_by_a_bundle(
    shared_data: Path, tmp_path: Path, core: Any, capsys: Printed
) -> None:
    """26 joints and one camera, with the description that the bundle carries."""
    root = shared_data / "lerobot" / "g1_real"
    described = DatasetRobot(directory=str(root))
    spec = asdict(replace(described.spec, name="g1"))
    bundle = write_bundle(tmp_path / "bundle", spec, rest=described.state(), pairs=[(7, 8)])
    options = ("--bundle", str(bundle), "--episodes", "1", "--max-steps", "33", "--json")
    assert run("--robot", f"dataset:{root}", *options) == 0
    report = json.loads(capsys.readouterr().out)
    found = report["predicted_against_recorded"]
    assert (report["robot"], found["actions"]) == ("g1", 5 * 16)
    assert found["episodes"][0]["task"] == "Pick up the yellow bottle on the table."
    still = found["joints"]["kLeftShoulderPitch"]
    recorded = described.recorded_actions(48)[:, 0].astype(float)
    rows = np.concatenate([recorded[step : step + 16] for step in range(0, 40, 8)])
    assert len(found["joints"]) == 26 and len(rows) == found["actions"]
    expected = np.abs(rows - float(described.state()[0])).mean()
    assert still["mean_abs_error"] == pytest.approx(expected, rel=1e-4)


def test_columns_of_ones_own_are_those_of_the_training(tmp_path: Path) -> None:
    root = tmp_path / "set"
    joints, gripper = vector_feature(SPEC.joint_names[:2]), vector_feature(SPEC.joint_names[2:])
    features = {
        **{f"{what}.joints": joints for what in ("seen", "sent")},
        **{f"{what}.gripper": gripper for what in ("seen", "sent")},
        "above": video_feature(32, 32, 10.0),
    }
    settings = {"fps": 10.0, "robot_type": "round", "features": features}
    with (
        WRITERS["v2.1"](root, **settings) as writer,
        EpisodeRecorder(writer.staging("0"), 10.0, features) as recorder,
    ):
        for step in range(6):
            values = {"seen": on_circle([step])[0], "sent": on_circle([step + 1])[0]}
            columns = {f"{what}.joints": row[:2] for what, row in values.items()}
            columns |= {f"{what}.gripper": row[2:] for what, row in values.items()}
            recorder.add(columns | {"above": np.full((32, 32, 3), 9, np.uint8)})
        writer.add(recorder.close("circle"))
    arm = SmallRobot(
        name="round",
        description=SPEC,
        cameras=("top",),
        image_size=(32, 32),
        tasks={"1": "circle"},
        prompt_length=32,
    )
    columns = {
        "state": ["seen.joints", "seen.gripper"],
        "actions": ["sent.joints", "sent.gripper"],
        "cameras": {"top": "above"},
    }
    loader = small_data(
        arm, data_root_path="elsewhere", action_horizon=4, batch_size=1, columns=columns
    )
    robot = DatasetRobot(
        directory=str(root),
        spec=asdict(SPEC),
        cameras={"top": "above"},
        training=loader["dataset"]["datasets"],
    )
    assert robot.state() == pytest.approx(on_circle([0])[0])
    assert robot.recorded_actions(2) == pytest.approx(on_circle([1, 2]))
    assert robot.observe("", ["top"]).images["top"].shape == (32, 32, 3)
    with pytest.raises(DataError, match="no feature"):
        DatasetRobot(directory=str(root), spec=asdict(SPEC), cameras={"top": "above"})
