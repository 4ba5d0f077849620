"""LIBERO's suites, in the environment that scripts/setup_libero.sh makes, and tests without it.

FLUX_LIBERO_PYTHON names that environment's interpreter: FLUX_LIBERO_PYTHON=.venv-libero/bin/python
"""

from __future__ import annotations

import json
import os
import subprocess
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from flux_core.errors import MissingDependencyError, RobotError
from flux_core.sim import libero_tasks
from flux_core.sim.libero import MAX_STEPS, SETTLE_STEPS, axis_angle

PYTHON = os.environ.get("FLUX_LIBERO_PYTHON")
needs_libero = pytest.mark.skipif(
    not PYTHON,
    reason="needs LIBERO: bash scripts/setup_libero.sh, and FLUX_LIBERO_PYTHON=its interpreter",
)
COUNTS = {
    "libero-spatial": 10,
    "libero-object": 10,
    "libero-goal": 10,
    "libero-10": 10,
    "libero-90": 90,
}


def run_in_libero(program: str) -> dict[str, Any]:
    """Runs a program whose stdout is one JSON object, and nothing else."""
    assert PYTHON
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_protocol_is_openpis() -> None:
    assert MAX_STEPS.keys() == COUNTS.keys()
    assert list(MAX_STEPS.values()) == [220, 280, 300, 520, 400]
    assert SETTLE_STEPS == 10


def test_the_rotation_vector_is_scipys() -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    for quaternion in rotation.random(50, rng=0).as_quat():
        turned = axis_angle(quaternion)
        assert 0 <= np.linalg.norm(turned) <= 2 * np.pi
        back = rotation.from_rotvec(turned) * rotation.from_quat(quaternion).inv()
        assert back.magnitude() < 1e-7
    assert axis_angle(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == [0, 0, 0]
    # q and -q are the same rotation, but the datasets contain the vector of each.
    np.testing.assert_allclose(
        axis_angle(np.array([1.0, 0.0, 0.0, -1e-3])), [np.pi + 2e-3, 0, 0], atol=1e-5
    )


def test_the_error_for_an_unknown_suite_lists_the_known_ones() -> None:
    with pytest.raises(RobotError, match="'libero-11': no such suite. LIBERO has: libero-spatial"):
        libero_tasks("libero-11")


@pytest.mark.skipif(bool(find_spec("libero")), reason="LIBERO is installed here")
def test_without_libero_the_command_that_installs_it_is_named() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        libero_tasks("libero-goal")
    assert "bash scripts/setup_libero.sh" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_libero
@pytest.mark.parametrize("suite", MAX_STEPS)
def test_a_suite_resets_steps_and_renders(suite: str) -> None:
    found = run_in_libero(
        f"""
import json
import numpy as np
from flux_core.sim import LiberoSim, libero_tasks
tasks = libero_tasks({suite!r})
with LiberoSim(tasks[-1]) as sim:
    sim.reset(1)
    start = sim.state()
    for _ in range(5):
        sim.step(np.array([0, 0, -1, 0, 0, 0, 1], np.float32))
    images = sim.render()
    print(json.dumps(dict(
        count=len(tasks), languages=[task.language for task in tasks],
        init_states=sim.num_init_states, time_s=sim.time_s,
        start=start.tolist(), end=sim.state().tolist(), stages=sim.stages(),
        shapes=[list(image.shape) for image in images.values()], cameras=list(images),
        contrast=[float(image.std()) for image in images.values()],
    )))
"""
    )
    assert found["count"] == len(set(found["languages"])) or suite == "libero-90"
    assert found["count"] == COUNTS[suite]
    assert found["init_states"] == 50
    assert found["time_s"] == pytest.approx(0.25)
    assert found["cameras"] == ["image", "wrist_image"]
    assert found["shapes"] == [[256, 256, 3]] * 2
    assert min(found["contrast"]) > 10
    assert found["stages"] == {"success": False}
    start, end = np.array(found["start"]), np.array(found["end"])
    assert start.shape == end.shape == (8,)
    assert end[2] < start[2] - 0.01  # it went down, and closed its fingers
    assert end[6] < start[6] - 0.005


@needs_libero
def test_an_episode_is_bit_identical_to_the_stock_environment() -> None:
    """Compares states, observations and images of a second episode, in a task with furniture."""
    found = run_in_libero(
        """
import contextlib, io, json
import numpy as np
from flux_core.sim import LiberoSim, libero_tasks
from flux_core.sim.libero import _benchmark, axis_angle

task = libero_tasks("libero-spatial")[4]
actions = np.random.default_rng(0).uniform(-1, 1, (8, 7))
sim = LiberoSim(task)
for seed in (9, 3):
    sim.reset(seed)
    states, positions = [], []
    for action in actions:
        sim.step(action)
        states.append(sim.state())
        positions.append(sim._env.sim.data.qpos.copy())
images = sim.render()
placed = sim._model.body_pos.copy(), sim._model.body_quat.copy()
sim.close()

equal = dict(state=[], qpos=[])
with contextlib.redirect_stdout(io.StringIO()):
    from libero.libero.envs import OffScreenRenderEnv
    benchmark = _benchmark(task.suite)
    env = OffScreenRenderEnv(
        bddl_file_name=benchmark.get_task_bddl_file_path(task.index),
        camera_heights=256, camera_widths=256,
    )
    env.reset()
    # The stock environment draws one more number on every reset, so its furniture differs.
    env.sim.model._model.body_pos[:], env.sim.model._model.body_quat[:] = placed
    env.set_init_state(benchmark.get_task_init_states(task.index)[3])
    for _ in range(10):
        env.step([0.0] * 6 + [-1.0])
    for action, state, qpos in zip(actions, states, positions):
        seen, *_ = env.step(action)
        expected = np.concatenate([
            seen["robot0_eef_pos"], axis_angle(seen["robot0_eef_quat"]), seen["robot0_gripper_qpos"]
        ])
        equal["state"].append(bool(np.array_equal(state, expected.astype(np.float32))))
        equal["qpos"].append(bool(np.array_equal(qpos, env.sim.data.qpos)))
for name, key in (("image", "agentview_image"), ("wrist_image", "robot0_eye_in_hand_image")):
    equal[name] = [bool(np.array_equal(images[name], seen[key][::-1, ::-1]))]
print(json.dumps(equal))
"""
    )
    assert {name: all(values) for name, values in found.items()} == {
        "state": True,
        "qpos": True,
        "image": True,
        "wrist_image": True,
    }


@needs_libero
def test_jagged_edges_change_the_picture_and_nothing_else() -> None:
    found = run_in_libero(
        """
import json
import numpy as np
from flux_core.sim import LiberoSim, libero_tasks

task, images, states = libero_tasks("libero-object")[0], [], []
for antialiased in (True, False):
    with LiberoSim(task, antialiased=antialiased) as sim:
        sim.step(np.full(7, 0.5, np.float32))
        images.append(sim.render()["image"].astype(float))
        states.append(sim.state().tolist())
smooth, jagged = images
print(json.dumps(dict(
    same=states[0] == states[1], changed=float(np.abs(smooth - jagged).mean()),
    means=[float(image.mean()) for image in images],
)))
"""
    )
    assert found["same"]
    assert 0.1 < found["changed"] < 5, "of 255"
    np.testing.assert_allclose(*found["means"], atol=1)
