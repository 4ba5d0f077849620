"""The simulated insertion task against gym-aloha's own environment, and its stages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from flux_core.sim import AlohaInsertionSim, import_mujoco
from flux_core.sim.aloha_arms import FLICKER_STEPS
from flux_core.sim.aloha_insertion import sample_insertion_positions

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in ("mujoco", "gym_aloha")),
    reason="needs mujoco and gym-aloha: pip install 'flux-core[sim]'",
)

START = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.1] * 2)
PEG, SOCKET = slice(16, 23), slice(23, 30)
LEFT = ("vx300s_left/10_left_gripper_finger", "vx300s_left/10_right_gripper_finger")
RIGHT = ("vx300s_right/10_left_gripper_finger", "vx300s_right/10_right_gripper_finger")


@pytest.fixture(scope="module")
def sim() -> Iterator[AlohaInsertionSim]:
    with AlohaInsertionSim(height=96, width=128) as sim:
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
        "gym_aloha/AlohaInsertion-v0", obs_type="pixels_agent_pos", disable_env_checker=True
    )


@pytest.mark.parametrize("seed", [0, 1, 1234])
def test_peg_and_socket_start_where_gym_aloha_puts_them(sim: AlohaInsertionSim, seed: int) -> None:
    from gym_aloha.utils import sample_insertion_pose

    expected = [pose[:3] for pose in sample_insertion_pose(seed)]
    sim.reset(seed)
    np.testing.assert_array_equal(sim.object_positions(), expected)
    np.testing.assert_array_equal(sample_insertion_positions(seed), expected)


def test_an_episode_is_bit_identical_to_gym_aloha(sim: AlohaInsertionSim, stock: Any) -> None:
    sim.reset(3)
    stock.reset(seed=3)
    qpos = stock.unwrapped._env.physics.data.qpos
    random = np.random.default_rng(0)
    action = START.copy()
    for _ in range(40):  # the arms come down and hit the objects
        action += random.uniform(-0.03, 0.06, 14)
        observation, reward, *_ = stock.step(action)
        sim.step(action)
        assert sim.reward() == reward
        np.testing.assert_array_equal(sim.data.qpos, qpos)
        np.testing.assert_array_equal(sim.state(), observation["agent_pos"].astype(np.float32))


def pinch_point(sim: AlohaInsertionSim, side: str) -> np.ndarray:
    fingers = LEFT if side == "left" else RIGHT
    return np.mean([sim.data.geom(name).xpos for name in fingers], axis=0)


def place(sim: AlohaInsertionSim, peg: np.ndarray, socket: np.ndarray) -> None:
    """Places peg and socket without rotation, and computes the contacts."""
    sim.data.qpos[PEG], sim.data.qpos[SOCKET] = (
        (*position, 1.0, 0.0, 0.0, 0.0) for position in (peg, socket)
    )
    sim._mujoco.mj_forward(sim.model, sim.data)


def test_the_reward_of_any_contacts_is_gym_alohas(sim: AlohaInsertionSim, stock: Any) -> None:
    stock.reset(seed=0)
    physics, task = stock.unwrapped._env.physics, stock.unwrapped._env.task
    random = np.random.default_rng(1)
    sim.reset(0)
    in_right, in_left = pinch_point(sim, "right"), pinch_point(sim, "left")
    rewards = []
    for case in range(300):
        noise = random.uniform(-0.02, 0.02, (2, 3))
        socket = in_left if case % 3 else np.array([0.0, 0.5, 0.018 if case % 2 else 0.3])
        peg = in_right if case % 2 else socket + np.array([0.1, 0.0, 0.0])
        place(sim, peg + noise[0], socket + noise[1])
        physics.data.qpos[:] = sim.data.qpos
        physics.forward()
        rewards.append(sim.reward())
        assert rewards[-1] == task.get_reward(physics)
    assert set(rewards) == {0, 2, 3, 4}, set(rewards)


def test_stages_stay_and_a_peg_that_only_lies_in_the_socket_is_not_held(
    sim: AlohaInsertionSim,
) -> None:
    sim.reset(0)
    assert not any(sim.stages().values())
    place(sim, np.array([0.09, 0.5, 0.412]), np.array([0.0, 0.5, 0.4]))
    sim.step(START)
    assert sim.stages() == {
        "touched": False,
        "lifted": False,
        "met": True,
        "inserted": True,
        "inserted_and_held": False,
    }
    place(sim, np.array([0.2, 0.5, 0.4]), np.array([-0.2, 0.5, 0.4]))
    sim.step(START)
    stages = sim.stages()
    assert stages["inserted"] and stages["met"] and sim.reward() == 0
    sim.reset(0)
    assert not any(sim.stages().values())


def test_held_means_both_grippers_and_nothing_else(
    sim: AlohaInsertionSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    geom = {
        name: sim._geom(name) for name in ("red_peg", "pin", "socket-1", "table", *LEFT, *RIGHT)
    }
    touching: dict[int, set[int]] = {}
    monkeypatch.setattr(sim, "_touching", lambda index: set(touching.get(index, ())))

    def step(peg: tuple[str, ...], socket: tuple[str, ...]) -> bool:
        touching.clear()
        touching[geom["red_peg"]] = {geom[name] for name in peg}
        touching[geom["socket-1"]] = {geom[name] for name in socket}
        sim._steps += 1
        sim._update_stages()
        return sim.stages()["inserted_and_held"]

    sim.reset(0)
    assert not step(RIGHT, LEFT)
    assert step((*RIGHT, "pin"), LEFT)
    assert all(step((), ()) for _ in range(FLICKER_STEPS))
    assert not step((), ())
    assert step((*RIGHT, "pin", "socket-1"), (*LEFT, "red_peg"))
    assert not step((*RIGHT, "pin", "table"), LEFT)
    assert not step((*RIGHT, "pin"), (*LEFT, "table"))
    assert not step((*RIGHT, "pin", LEFT[0]), LEFT)
    for _ in range(FLICKER_STEPS + 1):
        held = step((RIGHT[0], "pin"), LEFT)
    assert not held
