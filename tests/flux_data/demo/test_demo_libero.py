"""Scripted demonstrations of LIBERO-Object: what can be tested without LIBERO, and with it.

FLUX_LIBERO_PYTHON names the interpreter of the environment that scripts/setup_libero.sh makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.robots import robot_spec
from flux_core.sim.libero import IMAGE_SIZE
from flux_data.commands.main import main
from flux_data.demo.generate_libero import NOTE
from flux_data.demo.libero_object import (
    CARRY_M,
    CLEARANCE_M,
    CLOSED,
    FINGER_DEPTH_M,
    LOWEST_GRASP_M,
    OPEN,
    OVER_BASKET_M,
    ObjectScript,
    Places,
    tilt,
)
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.recorder import EpisodeRecorder, robot_features, video_key
from flux_data.lerobot.writer import WriterV21
from flux_data.validate.rows import validate
from flux_train.config.tree import TrainConfig, read_train_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
OBJECT_CONFIGS = sorted(CONFIGS.rglob("*libero_object*.py"))
SMALL = CONFIGS / "pi05" / "pi05_small_libero_object.py"
PYTHON = os.environ.get("FLUX_LIBERO_PYTHON")
needs_libero = pytest.mark.skipif(
    not PYTHON,
    reason="needs LIBERO: bash scripts/setup_libero.sh, and FLUX_LIBERO_PYTHON=its interpreter",
)

CAN = np.array([[-0.15, -0.27, 0.0], [-0.09, -0.21, 0.076]])
CHEESE = np.array([[0.01, -0.12, 0.0], [0.09, -0.08, 0.018]])
BOTTLE = np.array([[0.02, -0.13, 0.0], [0.08, -0.07, 0.146]])
BASKET = np.array([[-0.08, 0.17, 0.0], [0.08, 0.34, 0.141]])
STEP_M = 0.0128  # distance that LIBERO's hand moves per step at a command of 1
DOWN = np.array([np.pi, 0.0, 0.0])


def play(places: Places, steps: int = 200) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Runs the script with an ideal hand; returns (phase, state, command) of each step."""
    script, hand, seen = ObjectScript(places), np.array([-0.15, 0.0, 0.25]), []
    for _ in range(steps):
        state = np.array([*hand, *DOWN, 0.04, -0.04], np.float32)
        command = script.command(state)
        seen.append((script.phase, state, command))
        hand = hand + STEP_M * command[:3]
    return seen


@pytest.mark.parametrize("thing", [CAN, CHEESE, BOTTLE], ids=["can", "cheese", "bottle"])
def test_the_script_grasps_carries_over_the_rim_and_lets_go(thing: np.ndarray) -> None:
    places = Places.of(thing, BASKET)
    seen = play(places)
    phases = [phase for phase, _, _ in seen]
    assert list(dict.fromkeys(phases)) == ["reach", "close", "carry", "release"]
    for phase, _, command in seen:
        assert command.shape == (7,) and command.dtype == np.float32
        assert np.abs(command).max() <= 1.0
        assert command[6] == (OPEN if phase in ("reach", "release") else CLOSED)
    grasped = next(state for phase, state, _ in seen if phase == "close")
    assert (thing[0, :2] < grasped[:2]).all() and (grasped[:2] < thing[1, :2]).all()
    assert LOWEST_GRASP_M <= places.grasp[2] < thing[1, 2]
    above_floor = places.grasp[2] - thing[0, 2]
    for _, state, _ in (step for step in seen if step[0] == "carry" and step[1][1] > BASKET[0, 1]):
        assert state[2] - above_floor > BASKET[1, 2] + CLEARANCE_M / 2
    released = next(state for phase, state, _ in seen if phase == "release")
    assert np.linalg.norm(released[:2] - BASKET.mean(axis=0)[:2]) < OVER_BASKET_M


def test_low_things_are_carried_equally_high_and_a_tall_one_over_the_rim() -> None:
    can, cheese, bottle = (Places.of(thing, BASKET) for thing in (CAN, CHEESE, BOTTLE))
    assert can.carry_z == cheese.carry_z == CARRY_M
    hanging = BOTTLE[1, 2] - FINGER_DEPTH_M
    assert bottle.carry_z == pytest.approx(BASKET[1, 2] + CLEARANCE_M + hanging)
    assert bottle.carry_z > CARRY_M


def test_the_turn_to_straight_down_is_scipys() -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    rng = np.random.default_rng(0)
    for _ in range(50):
        off = rotation.from_rotvec(rng.uniform(-0.1, 0.1, 3))
        seen = (off.inv() * rotation.from_rotvec(DOWN)).as_rotvec()
        for vector in (seen, seen * (1 - 2 * np.pi / np.linalg.norm(seen))):  # q and -q
            np.testing.assert_allclose(tilt(vector), off.as_rotvec(), atol=1e-3)


@pytest.mark.skipif(bool(find_spec("libero")), reason="LIBERO is installed here")
def test_without_libero_one_line_names_the_script_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "libero-object", "--out", str(tmp_path / "out")]) == 1
    line = capsys.readouterr().err
    assert "bash scripts/setup_libero.sh" in line and line.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--episodes", "--workers"])
def test_an_invalid_option_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    command = ["demo", "libero-object", "--out", str(tmp_path / "out"), option, "0"]
    assert main(command) == 2
    assert f"{option}: expected at least 1, got 0" in capsys.readouterr().err


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records an episode of the script's commands with the features of `flux-data demo`."""
    root, spec = tmp_path_factory.mktemp("libero") / "set", robot_spec("libero")
    features = robot_features(spec, IMAGE_SIZE, IMAGE_SIZE)
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    images = {video_key(camera): image for camera in spec.cameras}
    with (
        WriterV21(root, fps=spec.control_hz, robot_type=spec.name, features=features) as writer,
        EpisodeRecorder(writer.staging("0"), spec.control_hz, features) as recorder,
    ):
        for _, state, action in play(Places.of(CAN, BASKET), 20):
            recorder.add({"observation.state": state, "action": action, **images})
        writer.add(recorder.close("pick up the alphabet soup and place it in the basket"))
    return root


@pytest.mark.parametrize("path", OBJECT_CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_suite_reads_the_features_that_are_recorded(
    path: Path, recorded: Path
) -> None:
    config = read_train_config(path, [])[0]
    features = open_lerobot(recorded).info["features"]
    (group,) = config.train_dataloader.dataset.groups().values()
    inputs: Any = group[0].transforms[0]
    assert set(inputs.video_keys) == {key for key in features if key.startswith(video_key(""))}
    assert "observation.state" in inputs.parquet_keys and group[0].action_key == "action"
    # The features of the usual LIBERO datasets.
    assert features["observation.state"]["shape"] == [8]
    assert features["action"]["shape"] == [7]
    assert features[video_key("image")]["shape"] == [256, 256, 3]
    assert open_lerobot(recorded).info["fps"] == 20


def test_the_small_config_takes_a_recorded_frame(recorded: Path) -> None:
    root = f"train_dataloader.dataset.datasets.data_root_path={recorded}"
    config: TrainConfig = read_train_config(SMALL, [root])[0]
    sample = config.train_dataloader.dataset.build().datasets[0][0]
    assert sample["images"].shape == (2, 3, 96, 96)
    assert sample["actions"].shape == (16, 7) and sample["states"].shape == (8,)
    assert sample["lang_masks"].sum() == 14, "the task takes one token for each of its parts"


def run_in_libero(*arguments: str) -> dict[str, Any]:
    """Runs Python in LIBERO's environment; its stdout is one JSON object."""
    assert PYTHON
    done = subprocess.run([PYTHON, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_libero
def test_the_script_reaches_the_goal_and_repeats_to_the_bit() -> None:
    """Repeats an episode after a different one, without and with noise."""
    found = run_in_libero(
        "-c",
        """
import json
import numpy as np
from flux_core.sim import LiberoSim, libero_tasks
from flux_data.demo.libero_object import execute

with LiberoSim(libero_tasks("libero-object")[3]) as sim:
    played = []
    for seed, noise in ((0, 0.1), (1, 0.0), (0, 0.1)):
        rows = [np.concatenate([sim.state(), action]) for action in execute(sim, seed, noise)]
        played.append((np.stack(rows), sim.check_success(), sim.stages()["success"]))
(first, *ends), (clean, *ends_clean), (again, *_) = played
print(json.dumps(dict(
    ends=[*map(bool, ends), *map(bool, ends_clean)], same=bool(np.array_equal(first, again)),
    lengths=[len(first), len(clean)], largest=float(np.abs(first[:, 8:]).max()),
)))
""",
    )
    assert found["ends"] == [True] * 4
    assert found["same"]
    assert max(found["lengths"]) < 280 and found["largest"] <= 1.0


@needs_libero
def test_drawn_starts_are_where_the_benchmarks_are_and_none_of_them() -> None:
    found = run_in_libero(
        "-c",
        """
import json
import numpy as np
from flux_core.sim import LiberoSim, libero_tasks

def places(begin):
    rows = []
    for seed in range(12):
        begin(seed)
        boxes = [sim.bounds(name).mean(axis=0)[:2] for name in sim.goal_objects()]
        rows.append(np.concatenate([*boxes, sim.state()[:3]]).tolist())
    return rows

with LiberoSim(libero_tasks("libero-object")[3]) as sim:
    print(json.dumps(dict(drawn=places(sim.draw), stored=places(sim.reset))))
""",
    )
    drawn, stored = (np.array(found[key]) for key in ("drawn", "stored"))
    np.testing.assert_allclose(drawn.mean(axis=0), stored.mean(axis=0), atol=0.02)
    assert np.ptp(drawn, axis=0).min() > 1e-3
    assert np.abs(drawn[:, None] - stored[None]).max(axis=2).min() > 1e-4


@needs_libero
def test_the_command_records_a_dataset_that_says_what_it_is(tmp_path: Path) -> None:
    out = tmp_path / "set"
    program = "import sys; from flux_data.commands.main import main; sys.exit(main(sys.argv[1:]))"
    options = ("--task", "bbq", "--episodes", "1", "--no-antialiasing", "--out", str(out), "--json")
    found = run_in_libero("-c", program, "demo", "libero-object", *options)
    name = "pick_up_the_bbq_sauce_and_place_it_in_the_basket"
    assert found["note"] == NOTE and found["num_episodes"] == 1
    assert found["tasks"][name]["successes"] == 1
    facts = json.loads((out / "meta" / "demo.json").read_text())
    assert facts["note"] == NOTE and facts["antialiased"] is False
    assert validate(out) == []
    source = open_lerobot(out)
    assert source.info["features"].keys() >= robot_features(robot_spec("libero"), 256, 256).keys()
    assert source.info["robot_type"] == "libero"
    columns = source.columns(["observation.state", "action"])
    assert columns["action"][0, 6] == OPEN and columns["action"][:, 6].max() == CLOSED
    assert np.ptp(columns["observation.state"][:, 2]) > 0.1, "the hand goes down and up"
