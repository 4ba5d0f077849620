"""The simulated ALOHA against gym-aloha's own environment, and its edge cases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from flux_core.errors import MissingDependencyError, RobotError
from flux_core.sim import AlohaSim, import_mujoco
from flux_core.sim.aloha import sample_cube_position

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("mujoco", "gym_aloha")),
    reason="needs mujoco and gym-aloha: pip install 'flux-core[sim]'",
)

START = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.1] * 2, dtype=np.float32)


@pytest.fixture(scope="module")
def sim() -> Iterator[AlohaSim]:
    with AlohaSim(height=96, width=128) as sim:
        yield sim


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """gym-aloha's environment without its images, three large ones per step."""
    import_mujoco()
    import gym_aloha  # noqa: F401  (registers the environment)
    import gymnasium
    from dm_control.mujoco import Physics

    black = np.zeros((480, 640, 3), dtype=np.uint8)
    monkeypatch.setattr(Physics, "render", lambda *_args, **_settings: black)
    return gymnasium.make(
        "gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos", disable_env_checker=True
    )


def scripted_actions(seed: int) -> np.ndarray:
    from flux_data.demo.transfer_cube import TRANSFER_CUBE

    return TRANSFER_CUBE.plan(AlohaSim(), seed, 1.5)


@pytest.mark.parametrize("seed", [0, 1, 1234])
def test_the_cube_starts_where_gym_aloha_puts_it(sim: AlohaSim, seed: int) -> None:
    from gym_aloha.utils import sample_box_pose

    sim.reset(seed)
    np.testing.assert_array_equal(sim.cube_position(), sample_box_pose(seed)[:3])
    np.testing.assert_array_equal(sample_cube_position(seed), sample_box_pose(seed)[:3])


def test_an_episode_is_bit_identical_to_gym_aloha(sim: AlohaSim, stock: Any) -> None:
    actions = scripted_actions(3).astype(np.float64)
    sim.reset(3)
    stock.reset(seed=3)
    qpos = stock.unwrapped._env.physics.data.qpos
    rewards, expected = [], []
    for action in actions:
        observation, reward, *_ = stock.step(action)
        sim.step(action)
        rewards.append(sim.reward())
        expected.append(reward)
        np.testing.assert_array_equal(sim.data.qpos, qpos)
        np.testing.assert_array_equal(sim.state(), observation["agent_pos"].astype(np.float32))
    assert rewards == expected
    assert {1, 2, 4} <= set(rewards)  # the replay has reached the stages that it must compare


def test_an_episode_does_not_depend_on_the_one_before(sim: AlohaSim) -> None:
    actions = scripted_actions(5)[:60]
    ends = []
    for _ in range(2):
        sim.reset(5)
        for action in actions:
            sim.step(action)
        ends.append(sim.data.qpos.copy())
    np.testing.assert_array_equal(ends[0], ends[1])


def test_the_stages_of_a_transfer_come_in_order_and_stay(sim: AlohaSim) -> None:
    sim.reset(1)
    assert not any(sim.stages().values())
    firsts: dict[str, int] = {}
    for step, action in enumerate(scripted_actions(1)):
        sim.step(action)
        for name, is_reached in sim.stages().items():
            if is_reached:
                firsts.setdefault(name, step)
    assert all(sim.stages().values())
    order = ["touched", "lifted", "transferred", "held_by_left_only"]
    assert sorted(firsts, key=firsts.__getitem__) == order
    assert len(set(firsts.values())) == len(order)


def test_held_by_left_only_describes_the_current_state(sim: AlohaSim) -> None:
    sim.reset(1)
    actions = scripted_actions(1)
    for action in actions:
        sim.step(action)
    assert sim.stages()["held_by_left_only"]
    dropping = actions[-1].copy()
    dropping[6] = 0.95
    for _ in range(50):
        sim.step(dropping)
    stages = sim.stages()
    assert stages["transferred"]
    assert not stages["held_by_left_only"]


def test_joint_actions_beyond_one_are_not_clipped(sim: AlohaSim) -> None:
    sim.reset(0)
    target = START.copy()
    target[2] = 1.4
    for _ in range(50):
        sim.step(target)
    assert sim.state()[2] > 1.3


def test_the_state_at_reset_is_the_start_pose(sim: AlohaSim) -> None:
    sim.reset(0)
    state = sim.state()
    assert state.dtype == np.float32
    np.testing.assert_allclose(state, START, atol=1e-3)
    assert sim.time_s == 0.0
    sim.step(START)
    assert sim.time_s == pytest.approx(0.02)


def test_each_camera_renders_a_different_image(sim: AlohaSim) -> None:
    sim.reset(0)
    images = sim.render()
    assert tuple(images) == sim.spec.cameras
    assert {image.shape for image in images.values()} == {(96, 128, 3)}
    assert {image.dtype for image in images.values()} == {np.dtype(np.uint8)}
    assert all(image.std() > 10 for image in images.values())
    assert list(sim.render(["cam_high"])) == ["cam_high"]


def test_cam_high_shows_the_red_cube_and_follows_it(sim: AlohaSim) -> None:
    def cube_column(seed: int) -> float:
        sim.reset(seed)
        image = sim.render(["cam_high"])["cam_high"].astype(int)
        red = (image[..., 0] > 150) & (image[..., 1:].max(axis=-1) < 80)
        assert red.any()
        return float(np.nonzero(red)[1].mean())

    seeds = range(4)
    by_image = sorted(seeds, key=cube_column)
    assert by_image == sorted(seeds, key=lambda seed: sample_cube_position(seed)[0])


def test_an_image_is_not_overwritten_by_the_next(sim: AlohaSim) -> None:
    sim.reset(0)
    first = sim.render(["cam_high"])["cam_high"]
    kept = first.copy()
    sim.reset(3)
    sim.render(["cam_high"])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros(7, dtype=np.float32), r"expected shape \(14,\), got \(7,\)"),
        (np.full(14, np.nan, dtype=np.float32), "expected finite numbers"),
    ],
)
def test_a_wrong_action_is_refused(sim: AlohaSim, action: np.ndarray, message: str) -> None:
    with pytest.raises(RobotError, match=message):
        sim.step(action)


def test_the_error_for_an_unknown_camera_lists_the_known_ones() -> None:
    with pytest.raises(RobotError, match="no camera 'cam_low'. It has: cam_high, cam_left_wrist"):
        AlohaSim(cameras=("cam_low",))


def test_missing_mujoco_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flux-core\[sim\]'"):
        AlohaSim()


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    inherited["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=inherited | environment,
        check=False,
    )


def test_a_headless_backend_is_chosen_and_exit_prints_nothing() -> None:
    program = (
        "import os\n"
        "from flux_core.sim import AlohaSim\n"
        "sim = AlohaSim(height=48, width=64)\n"
        "sim.render()\n"
        "print(os.environ['MUJOCO_GL'])"
    )
    done = run_python(program)
    assert done.stdout.strip() in {"egl", "osmesa"}
    assert done.stderr == ""
    assert done.returncode == 0


def test_mujoco_imported_before_a_backend_was_chosen_is_reported_without_an_abort() -> None:
    program = (
        "import mujoco\n"
        "from flux_core.errors import MissingDependencyError\n"
        "from flux_core.sim import AlohaSim\n"
        "try:\n"
        "    AlohaSim(height=48, width=64).render()\n"
        "except MissingDependencyError as error:\n"
        "    print(error)"
    )
    done = run_python(program, DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 0
    assert "set MUJOCO_GL=egl before mujoco is imported" in done.stdout


def test_rendering_without_opengl_names_what_to_install() -> None:
    program = (
        "from flux_core.errors import MissingDependencyError\n"
        "from flux_core.sim import AlohaSim\n"
        "sim = AlohaSim(height=48, width=64)\n"
        "try:\n"
        "    sim.render()\n"
        "except MissingDependencyError as error:\n"
        "    print(error)"
    )
    done = run_python(program, MUJOCO_GL="disable")
    assert "MUJOCO_GL='disable'" in done.stdout
    assert "libosmesa6 libegl1 libgl1-mesa-dri" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton: pip install triton")
def test_a_process_that_has_rendered_may_import_triton() -> None:
    program = (
        "from flux_core.sim import import_mujoco\n"
        "mujoco = import_mujoco()\n"
        "with mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8) as renderer:\n"
        "    renderer.render()\n"
        "import triton\n"
    )
    done = run_python(program)
    assert done.returncode == 0, done.stderr
