"""What only the first motions show: the watch names it, and is silent about a good robot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_runtime.deployment import ColourWatch, DeploymentFacts, Finding, MotionWatch
from flux_runtime.deployment.wrist_watch import WristWatch

from . import scenes
from .scenes import CAMERAS, SPEC, START

HZ, LAG, NOISE = SPEC.control_hz, 5, 0.002
Change = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
SPEEDS = np.array([0.5, 0.35, -0.4, 0.0, 0.3, 0.0, -1.0, 0.0, 0.2, -0.3, 0.0, 0.25, 0.0, 1.0]) * 0.3
"""Of commands, in joint units per second: a run that begins at a quarter of its speed."""


def followed(seconds: float, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Times, commands that begin smoothly, and states that follow them with a lag."""
    times = np.arange(round(seconds * HZ)) / HZ
    eased = times**2 / (times + 0.3)
    commands = START + SPEEDS * eased[:, None]
    delayed = np.concatenate([np.repeat(commands[:1], LAG, axis=0), commands[:-LAG]])
    noise = np.random.default_rng(seed).normal(0, NOISE, commands.shape)
    return times, commands, delayed + noise


def watched(change: Change, seconds: float = 2.5) -> tuple[float, Finding] | None:
    """When the watch stops the robot, and why; it looks 25 times a second."""
    times, commands, states = followed(seconds)
    states = change(commands, states)
    watch = MotionWatch(SPEC)
    for first in range(0, len(times), 2):
        part = slice(first, first + 2)
        if found := watch.add(times[part], commands[part], states[part]):
            return float(times[first]), found
    return None


def inverted(joint: int) -> Change:
    def change(commands: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
        states[:, joint] = 2 * START[joint] - states[:, joint]
        return states

    return change


def exchanged_arms(commands: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
    moved = states - START
    return START + np.concatenate([moved[:, 7:], moved[:, :7]], axis=1)


def exchanged_joints(commands: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
    moved = states - START
    moved[:, [1, 2]] = moved[:, [2, 1]]
    return START + moved


def gripper_in_metres(commands: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
    states[:, 13] = 0.07 * states[:, 13]
    return states


def blocked(commands: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
    states[:, 2] = START[2]
    return states


def sagging(commands: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
    fall = np.linspace(0, 1, len(states)).clip(0, 0.2)[:, None] * 5
    return states - fall * np.array([0, 0.04, 0.04, 0, 0.03, 0, 0] * 2)


def slow_arm(commands: NDArray[Any], states: NDArray[Any]) -> NDArray[Any]:
    lag = 12
    return np.concatenate([np.repeat(states[:1], lag, axis=0), states[:-lag]])


@pytest.mark.parametrize("change", [lambda _, states: states, blocked, sagging, slow_arm])
def test_a_good_robot_may_go_on(change: Change) -> None:
    assert watched(change) is None


@pytest.mark.parametrize("joint", [0, 2, 8, 9, 6])
def test_an_inverted_joint_is_named_in_the_first_second(joint: int) -> None:
    found = watched(inverted(joint))
    assert found is not None
    when, finding = found
    assert finding.name == "joint_sign" and SPEC.joint_names[joint] in finding.line
    assert "moves the other way" in finding.line
    assert when <= 1.6  # the slowest of these joints has by then moved 6 degrees


def test_exchanged_arms_are_named() -> None:
    found = watched(exchanged_arms)
    assert found is not None and found[1].name == "arms_swapped"
    assert "left_" in found[1].line and "right_" in found[1].line


def test_exchanged_joints_are_named() -> None:
    found = watched(exchanged_joints)
    # Each moves as the other is told, which here is the other way.
    assert found is not None and found[1].name in ("joint_order", "joint_sign")


def test_a_gripper_in_metres_is_named() -> None:
    found = watched(gripper_in_metres)
    assert found is not None and found[1].name == "gripper_unit"
    assert "0.07 of it" in found[1].line


def test_a_state_that_is_mirrored_at_zero_is_named() -> None:
    """The loop holds what it reads: the joint goes to the command, and reads as its negative."""
    times = np.arange(50) / HZ
    commands = np.tile(START, (50, 1))
    states = commands.copy()
    states[:, 2] = START[2] * np.maximum(1 - times / 0.3, -1.0)
    found = None
    watch = MotionWatch(SPEC)
    for first in range(0, 50, 2):
        part = slice(first, first + 2)
        commands[part, 2] += 0.06 * (times[part] > 0.1)
        found = found or watch.add(times[part], commands[part], states[part])
    assert found is not None and found.name == "joint_sign"


def test_an_accepted_suspicion_does_not_stop_the_robot() -> None:
    times, commands, states = followed(2.5)
    states = inverted(0)(commands, states)
    assert MotionWatch(SPEC, ["joint_sign"]).add(times, commands, states) is None


def test_a_robot_that_is_commanded_by_differences_is_not_judged() -> None:
    from flux_core.robots import ROBOT_SPECS

    assert MotionWatch(ROBOT_SPECS["libero"]).is_over


def coloured(red: bool) -> dict[str, NDArray[np.uint8]]:
    """A grey scene into which something coloured has come."""
    image = scenes.scene("cam_high", 3, is_grey=True)
    image[40:60, 50:80] = (200, 30, 30) if red else (30, 30, 200)
    return {"cam_high": image}


def colour_facts(red: bool) -> DeploymentFacts:
    data = scenes.summary(is_grey=True)
    data["cameras"]["cam_high"]["coloured"] = [0.03, 0.0] if red else [0.0, 0.03]
    return DeploymentFacts.from_summary(data)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("temperature", [-0.2, 0.0, 0.2])
def test_exchanged_channels_are_named_as_soon_as_there_is_colour(
    recorded: bool, temperature: float
) -> None:
    for seen in (True, False):
        watch = ColourWatch(colour_facts(recorded).cameras)
        image = scenes.shifted(coloured(seen)["cam_high"], 1.1, 0.9, temperature)
        grey = {name: scenes.scene(name, 0, is_grey=True) for name in CAMERAS}
        found = [watch.add(grey), *(watch.add({"cam_high": image}) for _ in range(4))]
        names = [each.name for each in found if each is not None]
        assert names == ([] if seen == recorded else ["camera_colour"])


def wrist_images(left: int, right: int) -> dict[str, NDArray[np.uint8]]:
    """What the wrist cameras see after they have moved by so many pixels."""
    moved = {"cam_left_wrist": left, "cam_right_wrist": right}
    return {name: np.roll(scenes.scene(name, 1), by, axis=1) for name, by in moved.items()}


def wrists_watched(left: int, right: int, arms: tuple[int, ...]) -> list[Finding]:
    """What is found while joints of some arms (0 left, 7 right) move by 0.4 rad in a second."""
    watch = WristWatch(SPEC, scenes.facts().cameras)
    found: list[Finding | None] = []
    for step in range(6):
        states = np.tile(START, (10, 1))
        for first in arms:
            states[:, first : first + 3] += 0.1 * step
        watch.add_states(states)
        found.append(watch.add_images(wrist_images(left * step, right * step)))
    return [each for each in found if each is not None]


def test_a_wrist_camera_that_stands_still_while_its_arm_moves_is_named() -> None:
    (found,) = wrists_watched(left=0, right=4, arms=(0,))
    assert found.name == "cameras_swapped" and found.is_hard
    assert "the left arm moved by" in found.line and "cam_right_wrist by" in found.line
    (found,) = wrists_watched(left=4, right=0, arms=(7,))
    assert "the right arm moved by" in found.line


@pytest.mark.parametrize(
    ("left", "right", "arms"),
    [(4, 0, (0,)), (0, 4, (7,)), (4, 4, (0, 7)), (4, 4, (0,)), (0, 0, (0,)), (0, 4, (0, 7))],
)
def test_wrist_cameras_that_move_with_their_arms_are_not_suspected(
    left: int, right: int, arms: tuple[int, ...]
) -> None:
    assert wrists_watched(left, right, arms) == []
