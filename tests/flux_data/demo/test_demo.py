"""The scripts of the simulated ALOHA: inverse kinematics, both tasks, and the recorded dataset."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest

from flux_core.errors import DataError
from flux_core.robots import robot_spec
from flux_core.sim import AlohaInsertionSim, AlohaSim
from flux_core.sim.aloha import START_ARM_RAD, sample_cube_position
from flux_data.commands.main import main
from flux_data.demo.aloha_script import (
    GRIPPER_CLOSED,
    GRIPPER_OPEN,
    MAX_JOINT_STEP_RAD,
    AlohaScript,
    execution_noise,
)
from flux_data.demo.generate import worker_processes
from flux_data.demo.ik import ArmIk, GripperPose
from flux_data.demo.insertion import INSERTION, LATEST_TICKS, lateness
from flux_data.demo.transfer_cube import TRANSFER_CUBE
from flux_data.lerobot.dataset import open_lerobot

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("mujoco", "gym_aloha")),
    reason="needs mujoco and gym-aloha: pip install 'flux-core[sim]'",
)

SEEDS = (0, 1, 2)
SCRIPTS = pytest.mark.parametrize("script", [TRANSFER_CUBE, INSERTION], ids=lambda s: s.name)


@pytest.fixture(scope="module")
def sim() -> AlohaSim:
    return AlohaSim()


@pytest.fixture(scope="module")
def insertion_sim() -> AlohaInsertionSim:
    return AlohaInsertionSim(cameras=())


def record(out: Path, *settings: str) -> int:
    command = ["demo", "aloha-sim", "--episodes", "2", "--size", "32x48", "--out", str(out)]
    return main([*command, *settings])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "set"
    assert record(out, "--workers", "2", "--noise", "0.003", "--seed", "1") == 0
    return out


@pytest.mark.parametrize("side", ["left", "right"])
def test_ik_follows_a_path_within_a_millimetre(sim: AlohaSim, side: str) -> None:
    ik = ArmIk(sim.model, side, np.array(START_ARM_RAD))
    sign = 1.0 if side == "right" else -1.0
    here, pitch = ik.pinch_point(), -0.1
    for seed in range(8):
        there = sample_cube_position(seed) * (sign, 1.0, 1.0)
        for share in np.linspace(0, 1, 40):
            position = here + share * (there - here)
            pose = GripperPose(position=position, pitch=pitch + share * (1.05 - pitch), roll=0.0)
            joints = ik.solve(pose)
            assert ik.residual(pose) < 1e-3
            np.testing.assert_allclose(ik.pinch_point(), position, atol=1e-3)
            assert abs(joints[3]) < 1e-2  # the forearm does not roll: the yaw follows the arm
        here, pitch = there, 1.05


def test_ik_out_of_reach_stays_within_the_joints_range(sim: AlohaSim) -> None:
    ik = ArmIk(sim.model, "left", np.array(START_ARM_RAD))
    pose = GripperPose(position=np.array((3.0, 0.5, 0.2)), pitch=0.0, roll=0.0)
    joints = ik.solve(pose)
    spec = robot_spec("aloha-sim")
    assert (joints >= spec.lower[:6]).all()
    assert (joints <= spec.upper[:6]).all()
    assert ik.residual(pose) > 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_script_hands_the_cube_over(sim: AlohaSim, seed: int) -> None:
    result = TRANSFER_CUBE.run(sim, seed, 1.5, 0.003)
    assert result.stages == dict.fromkeys(result.stages, True)
    assert result.is_success


@pytest.mark.parametrize("seed", range(5))
def test_the_script_inserts_the_peg_and_holds_it(
    insertion_sim: AlohaInsertionSim, seed: int
) -> None:
    result = INSERTION.run(insertion_sim, seed, 1.5, INSERTION.noise_rad)
    reached = {name for name, is_reached in result.stages.items() if is_reached}
    assert reached >= {"touched", "lifted", "inserted", "inserted_and_held"}
    assert result.is_success


def test_the_peg_enters_the_hole_in_its_middle(insertion_sim: AlohaInsertionSim) -> None:
    """8 mm either way is all that there is: without noise it is within a quarter of that."""
    for seed in range(4):
        for _ in INSERTION.execute(insertion_sim, seed, 1.5, 0.0):
            peg, socket = insertion_sim.object_positions()
            if peg[0] - socket[0] < 0.12:
                break
        np.testing.assert_allclose(peg[1:], socket[1:], atol=0.004)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_arms_wait_for_late_jaws_alone(insertion_sim: AlohaInsertionSim, seed: int) -> None:
    """A policy cannot see how long it has waited already."""
    joints = np.delete(INSERTION.plan(insertion_sim, seed, 1.5), [6, 13], axis=1)
    moves = np.abs(np.diff(joints[:140], axis=0)).max(axis=1) >= 1e-3
    longest = max(len(still) for still in "".join(".x"[int(move)] for move in moves).split("x"))
    assert longest <= lateness(seed) / 1.5 + 2


def test_jaws_are_late_by_every_time_and_no_more() -> None:
    assert {lateness(seed) for seed in range(200)} == set(range(LATEST_TICKS + 1))


@pytest.mark.parametrize("seed", [0, 4, 6])
def test_jaws_that_are_hardly_late_touch_just_before_the_arms_turn(
    insertion_sim: AlohaInsertionSim, seed: int
) -> None:
    assert lateness(seed) <= 2
    first: dict[str, int] = {}
    for step, _ in enumerate(INSERTION.execute(insertion_sim, seed, 1.5, 0.0)):
        for side, gripper in (("left", 6), ("right", 13)):
            if step > 50 and insertion_sim.state()[gripper] < (0.67, 0.37)[side == "right"]:
                first.setdefault(side, step)
    turn = (94 + lateness(seed)) / 1.5
    assert all(0 <= turn - step <= 2 for step in first.values())


@SCRIPTS
@pytest.mark.parametrize("speed", [1.0, 1.5])
def test_commands_are_calm_and_within_limits(script: AlohaScript, speed: float) -> None:
    spec = robot_spec("aloha-sim")
    start = np.array([*START_ARM_RAD, 0.1] * 2, dtype=np.float32)
    with script.simulator(cameras=()) as sim:
        for seed in range(6):
            actions = script.plan(sim, seed, speed)
            assert actions.dtype == np.float32
            ticks = 300 if script is TRANSFER_CUBE else 264 + lateness(seed)
            assert len(actions) == round(ticks / speed)
            assert (actions >= spec.lower).all()
            assert (actions <= spec.upper).all()
            steps = np.abs(np.diff(np.concatenate([start[None], actions]), axis=0))
            assert (steps < np.array(spec.max_velocity) / spec.control_hz).all()
            assert np.delete(steps, [6, 13], axis=1).max() < MAX_JOINT_STEP_RAD
            grippers = actions[:, [6, 13]]
            assert grippers.min() >= GRIPPER_CLOSED - 1e-6
            assert grippers.max() <= GRIPPER_OPEN + 1e-6


def test_the_cube_is_planned_as_ever(sim: AlohaSim) -> None:
    """The shipped policy's demonstrations can be recorded again."""
    left = [0.0, -0.55807, 1.10908, 0.0, -0.55102, 1.57063, 0.95]
    right = [-0.08707, -0.20617, 0.56331, -0.00008, 0.69285, 0.00015, 0.07]
    plan = TRANSFER_CUBE.plan(sim, 3, 1.5)
    np.testing.assert_allclose(plan[100], [*left, *right], atol=1e-4)


@SCRIPTS
def test_the_arms_hold_still_at_the_end(script: AlohaScript) -> None:
    with script.simulator(cameras=()) as sim:
        actions = script.plan(sim, 0, 1.5)
    assert np.abs(np.diff(actions[-25:], axis=0)).max() < 1e-3


def test_noise_is_executed_but_not_recorded(sim: AlohaSim) -> None:
    noisy, clean = (list(TRANSFER_CUBE.execute(sim, 4, 1.5, sigma)) for sigma in (0.003, 0.0))
    np.testing.assert_array_equal(noisy, clean)


def test_noise_has_the_requested_size_and_leaves_the_grippers_alone() -> None:
    noise = execution_noise(0, 20_000, 0.01)
    joints = np.delete(noise, [6, 13], axis=1)
    np.testing.assert_allclose(joints.std(axis=0), 0.01, rtol=0.1)
    assert np.abs(joints.mean(axis=0)).max() < 2e-3
    assert not noise[:, [6, 13]].any()
    assert np.corrcoef(joints[:-1, 0], joints[1:, 0])[0, 1] == pytest.approx(0.9, abs=0.02)
    np.testing.assert_array_equal(noise, execution_noise(0, 20_000, 0.01))


def seeds_of(dataset: Path) -> list[int]:
    facts = json.loads((dataset / "meta" / "demo.json").read_text())
    return facts["tasks"]["transfer-cube"]["seeds"]


def test_a_recorded_episode_replays(dataset: Path, sim: AlohaSim) -> None:
    source = open_lerobot(dataset)
    columns = source.columns(["observation.state", "action", "episode_index"])
    seeds = seeds_of(dataset)
    for index, seed in enumerate(seeds):
        rows = columns["episode_index"] == index
        states, actions = (columns[key][rows] for key in ("observation.state", "action"))
        replayed = [
            (sim.state(), action) for action in TRANSFER_CUBE.execute(sim, seed, 1.5, 0.003)
        ]
        np.testing.assert_array_equal(states, [state for state, _ in replayed])
        np.testing.assert_array_equal(actions, [action for _, action in replayed])


def test_an_image_is_what_was_seen_before_the_action(dataset: Path) -> None:
    source = open_lerobot(dataset)
    seed = seeds_of(dataset)[0]
    path = source.video("observation.images.cam_left_wrist", 0).path
    with av.open(str(path)) as video:
        decoded = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    step = 50  # the left wrist is turning: neighbouring frames differ
    with AlohaSim(cameras=("cam_left_wrist",), height=32, width=48) as sim:
        seen = [
            sim.render()["cam_left_wrist"]
            for i, _ in zip(
                range(step + 2), TRANSFER_CUBE.execute(sim, seed, 1.5, 0.003), strict=False
            )
            if i >= step - 1
        ]
    errors = [np.abs(decoded[step] - image).mean() for image in seen]
    assert np.argmin(errors) == 1
    assert errors[1] < 5.0


def test_the_metadata_describe_how_the_demonstrations_were_made(dataset: Path) -> None:
    facts = json.loads((dataset / "meta" / "demo.json").read_text())
    assert facts["attempts"] >= facts["successes"] == 2
    assert (facts["speed"], facts["tasks"]["transfer-cube"]["noise"]) == (1.5, 0.003)
    episodes = [
        json.loads(x) for x in (dataset / "meta" / "episodes.jsonl").read_text().splitlines()
    ]
    assert [episode["seed"] for episode in episodes] == seeds_of(dataset)
    assert all(episode["tasks"] == [TRANSFER_CUBE.words] for episode in episodes)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_number_of_workers_changes_no_byte(dataset: Path, tmp_path: Path) -> None:
    assert record(tmp_path / "one", "--workers", "1", "--noise", "0.003", "--seed", "1") == 0
    assert digests(tmp_path / "one") == digests(dataset)


def test_both_tasks_alternate_each_with_its_own_noise_and_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both"
    assert record(out, "--task", "both", "--seed", "1", "--episodes", "2", "--json") == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert list(facts["tasks"]) == ["transfer-cube", "insertion"]
    for script in (TRANSFER_CUBE, INSERTION):
        task = facts["tasks"][script.name]
        assert task["attempts"] >= task["successes"] == 2
        assert task["noise"] == script.noise_rad
        assert f"{script.name}: 2 of {task['attempts']}" in printed.err
    assert f"({facts['successes']} of {facts['attempts']} scripted attempts" in printed.err
    lines = (out / "meta" / "episodes.jsonl").read_text().splitlines()
    words = [json.loads(line)["tasks"] for line in lines]
    assert words == [[TRANSFER_CUBE.words], [INSERTION.words]] * 2


def test_a_camera_is_recorded_as_among_all(dataset: Path, tmp_path: Path) -> None:
    settings = ("--cameras", "cam_left_wrist", "--noise", "0.003", "--seed", "1")
    assert record(tmp_path / "one", *settings) == 0
    only = open_lerobot(tmp_path / "one")
    assert only.video_keys == ("observation.images.cam_left_wrist",)
    kept = [name for name in digests(tmp_path / "one") if name.endswith((".mp4", ".parquet"))]
    assert len(kept) == 4
    for name in kept:
        assert (tmp_path / "one" / name).read_bytes() == (dataset / name).read_bytes()


def test_an_insertion_is_recorded_as_it_was_played(
    tmp_path: Path, insertion_sim: AlohaInsertionSim
) -> None:
    out = tmp_path / "insertion"
    assert record(out, "--task", "insertion", "--seed", "7", "--episodes", "1") == 0
    columns = open_lerobot(out).columns(["observation.state", "action"])
    played = INSERTION.execute(insertion_sim, 7, 1.5, INSERTION.noise_rad)
    replayed = [(insertion_sim.state(), action) for action in played]
    np.testing.assert_array_equal(columns["observation.state"], [state for state, _ in replayed])
    np.testing.assert_array_equal(columns["action"], [action for _, action in replayed])


def test_a_directory_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert record(tmp_path) == 2
    message = capsys.readouterr().err
    assert "expected an empty folder, got files. Choose another --out" in message
    assert len(message.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--size", "huge"),
        ("--size", "31x48"),
        ("--episodes", "0"),
        ("--speed", "0"),
        ("--speed", "inf"),
        ("--speed", "nan"),
        ("--speed", "1e9"),
        ("--noise", "-1"),
        ("--noise", "inf"),
        ("--noise", "nan"),
        ("--workers", "0"),
        ("--seed", "-1"),
    ],
)
def test_an_invalid_option_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert record(tmp_path / "out", option, value) == 2
    assert option in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_hopeless_speed_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(tmp_path / "out", "--speed", "8", "--workers", "2") == 1
    assert "Lower these values" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "meta").exists()


def test_a_process_that_is_killed_ends_the_recording_with_what_to_do() -> None:
    with pytest.raises(DataError, match="was killed.*Lower --workers"), worker_processes(2) as pool:
        list(pool.map(os._exit, [9] * 8))


def test_info_summarises_the_dataset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(dataset), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["codebase_version"] == "v2.1"
    assert (facts["num_episodes"], facts["num_frames"], facts["fps"]) == (2, 400, 50)
    assert facts["robot_type"] == "aloha-sim"
    assert facts["cameras"] == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
    assert facts["tasks"] == [TRANSFER_CUBE.words]
    assert facts["features"]["action"] == {"dtype": "float32", "shape": [14]}
    assert main(["info", str(dataset)]) == 0
    assert "2 episodes, 400 frames at 50 Hz" in capsys.readouterr().out
