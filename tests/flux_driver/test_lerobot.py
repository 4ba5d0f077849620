"""The driver of LeRobot's robots, as far as it needs no LeRobot; tests/robots has the rest."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_core.config import bind
from flux_core.robots import RobotSpec
from flux_driver.lerobot.arms import Arm, arms_of, calibrate_command, require_calibration
from flux_driver.lerobot.description import Description
from flux_driver.lerobot.driver import LeRobotDriver
from flux_driver.lerobot.feeds import Feeds, take_cameras
from flux_driver.lerobot.settings import JointValues, split
from flux_driver.robot import DriverError

JOINTS = ("pan.pos", "lift.pos", "gripper.pos")


class Mode(enum.Enum):
    """As LeRobot's MotorNormMode."""

    DEGREES = "degrees"
    PLUS_MINUS = "range_m100_100"
    ZERO_TO = "range_0_100"


def arm(mode: Mode = Mode.DEGREES, prefix: str = "") -> Arm:
    """Returns an arm with two joints of half a turn and a gripper."""
    modes = {"pan": mode, "lift": mode, "gripper": Mode.ZERO_TO}
    half_turn = SimpleNamespace(homing_offset=0, range_min=1000, range_max=3047.5)
    bus = SimpleNamespace(
        motors={
            name: SimpleNamespace(id=number, model="m", norm_mode=found)
            for number, (name, found) in enumerate(modes.items(), 1)
        },
        calibration=dict.fromkeys(modes, half_turn),
        model_resolution_table={"m": 4096},
        port="/dev/ttyACM0",
    )
    config = SimpleNamespace(id="my arm", calibration_dir=None, port="/dev/ttyACM0")
    robot = SimpleNamespace(bus=bus, config=config, calibration_fpath=Path("my arm.json"))
    return Arm(prefix, robot, bus)


def describe(
    *arms: Arm, ours: Mapping[str, Any] | None = None, control_hz: float | None = 25
) -> Description:
    return Description(
        kind="my_arm",
        joints=JOINTS,
        cameras=("top",),
        arms=arms,
        ours=ours or {},
        control_hz=control_hz,
    )


def test_limits_come_from_the_calibration_in_lerobots_unit() -> None:
    spec = bind(RobotSpec, describe(arm()).spec, "spec")
    assert spec.units == ("degrees", "degrees", "percent")
    np.testing.assert_allclose(spec.lower, (-90, -90, 0))
    np.testing.assert_allclose(spec.upper, (90, 90, 100))
    assert spec.max_velocity == (60, 60, 100)
    assert (spec.control_hz, spec.cameras) == (25, ("top",))


def test_the_default_velocity_is_the_same_angle_in_percent() -> None:
    spec = bind(RobotSpec, describe(arm(Mode.PLUS_MINUS)).spec, "spec")
    assert spec.units == ("percent",) * 3
    assert spec.lower == (-100, -100, 0)
    np.testing.assert_allclose(spec.max_velocity, (60 / 0.9, 60 / 0.9, 100))


def test_the_relative_target_is_never_tighter_than_the_filter() -> None:
    description = describe(arm())
    spec, targets = description.spec, description.relative_targets(arm())
    for joint, error, velocity in zip(
        ("pan", "lift", "gripper"), spec["max_following_error"], spec["max_velocity"], strict=True
    ):
        assert targets[joint] >= error + 2 * velocity / 25


def test_what_nobody_states_is_said() -> None:
    notes = describe(arm(), control_hz=None).notes
    assert any(note.startswith("control_hz: 30") for note in notes)
    assert any("max_velocity: 60 for pan and lift, 100 for gripper" in note for note in notes)
    own = {"control_hz": 50, "max_velocity": 30}
    assert not describe(arm(), ours=own, control_hz=None).notes


def test_a_robot_without_a_motor_bus_must_be_told_its_limits() -> None:
    with pytest.raises(DriverError, match=r"expected units of pan.pos, because"):
        describe()
    own: dict[str, Any] = {"units": "rad"}
    with pytest.raises(DriverError, match="lower and upper of pan.pos"):
        describe(ours=own)
    own |= {"lower": -1, "upper": 1}
    with pytest.raises(DriverError, match="max_velocity of pan.pos"):
        describe(ours=own)
    spec = describe(ours={**own, "max_velocity": 2}).spec
    assert bind(RobotSpec, spec, "spec").max_velocity == (2, 2, 2)


@pytest.mark.parametrize(
    ("ours", "text"),
    [
        ({"max_velocity": "fast"}, "flux.max_velocity: pan.pos: expected a number, got 'fast'"),
        ({"max_velocity": {"jaw": 1}}, "expected joints of pan.pos, lift.pos, gripper.pos, got"),
        ({"upper": {"pan": 200}}, "pan.pos: expected a range within -90 to 90"),
        ({"units": {"pan": "rad"}}, "expected degrees, as LeRobot gives it, got rad"),
        ({"max_jerk": {"pan": 1}}, "expected a value per joint, got none of lift.pos, gripper.pos"),
        ({"control_hz": True}, "flux.control_hz: expected a number, got True"),
    ],
)
def test_entries_that_do_not_fit_are_named(ours: dict[str, Any], text: str) -> None:
    with pytest.raises(DriverError) as caught:
        describe(arm(), ours=ours)
    assert text in str(caught.value)


def test_joints_may_be_named_with_and_without_their_ending() -> None:
    values = JointValues({"lower": {"pan": 1, "lift.pos": 2}}, JOINTS)
    assert values.numbers("lower") == {"pan.pos": 1, "lift.pos": 2}


def test_the_file_is_lerobots_but_for_one_key() -> None:
    theirs, ours = split({"type": "koch", "port": "/dev/x", "flux": {"control_hz": 30}}, "koch")
    assert (theirs, ours) == ({"port": "/dev/x"}, {"control_hz": 30})
    with pytest.raises(DriverError, match="type: expected 'koch' as in --robot lerobot:koch"):
        split({"type": "so101_follower"}, "koch")
    with pytest.raises(DriverError, match=r"got 'max_vel'. Did you mean 'max_velocity'\?"):
        split({"flux": {"max_vel": 1}}, "koch")


def test_the_arms_of_a_robot_are_found_by_their_prefixes() -> None:
    joints = [f"{side}_{joint}" for side in ("left", "right") for joint in JOINTS]
    robot = SimpleNamespace(left_arm=arm().robot, right_arm=arm().robot, name="two")
    found = arms_of(robot, joints)
    assert [one.prefix for one in found] == ["left_", "right_"]
    assert found[1].motor("right_pan.pos") == "pan"
    assert found[1].motor("left_pan.pos") is None
    assert arms_of(SimpleNamespace(name="plugin"), joints) == ()


def test_a_missing_calibration_says_how_to_calibrate() -> None:
    uncalibrated = arm()
    uncalibrated.bus.calibration.clear()
    with pytest.raises(DriverError) as caught:
        require_calibration([uncalibrated], "my_arm")
    assert "in my arm.json, got no such file" in str(caught.value)
    command = "lerobot-calibrate --robot.type=my_arm --robot.port=/dev/ttyACM0 --robot.id='my arm'"
    assert calibrate_command(uncalibrated, "my_arm") == command
    assert str(caught.value).endswith(command)


def test_an_interpreter_without_lerobot_is_named() -> None:
    with pytest.raises(DriverError, match=r"LeRobot cannot be imported in .*--driver-python PATH"):
        LeRobotDriver("so101_follower")


class FakeCamera:
    """A camera that delivers an image whenever the test says so.

    Attributes:
        is_broken: whether reading fails.
    """

    fps = 10

    def __init__(self) -> None:
        self.is_broken = False
        self.due = threading.Semaphore(0)
        self.connections = 0

    def connect(self) -> None:
        self.connections += 1

    def async_read(self, timeout_ms: float) -> np.ndarray:
        if self.is_broken or not self.due.acquire(timeout=timeout_ms / 1e3):
            raise TimeoutError("no frame")
        return np.zeros((2, 2, 3), np.uint8)

    def disconnect(self) -> None:
        pass


def test_one_camera_never_waits_for_another() -> None:
    quick, slow = FakeCamera(), FakeCamera()
    feeds = Feeds({"quick": quick, "slow": slow})
    quick.due.release()
    slow.due.release()
    feeds.start(30)
    first = feeds.read(["quick", "slow", "absent"])
    quick.due.release()
    until = time.monotonic() + 30
    while feeds.read(["quick"])["quick"][1] == first["quick"][1]:
        assert time.monotonic() < until
    assert feeds.read(["slow"])["slow"][1] == first["slow"][1]
    assert set(first) == {"quick", "slow"}
    feeds.close(0.1)


def test_an_image_is_as_old_as_the_begin_of_its_exposure() -> None:
    camera = FakeCamera()
    feeds = Feeds({"top": camera})
    before_s = time.monotonic()
    camera.due.release()
    feeds.start(30)
    _, captured_s = feeds.read(["top"])["top"]
    assert before_s - 0.1 <= captured_s <= time.monotonic() - 0.1
    feeds.close(0.1)


def test_a_camera_that_fails_at_the_start_is_named() -> None:
    camera = FakeCamera()
    camera.is_broken = True
    feeds = Feeds({"top": camera})
    with pytest.raises(DriverError, match="cameras.top: TimeoutError: no frame"):
        feeds.start(30)
    feeds.close(0.1)


def test_a_robot_without_its_cameras_reads_the_arm_alone() -> None:
    robot = SimpleNamespace(cameras={"wrist": "camera"})
    assert take_cameras(robot, "left_") == {"left_wrist": "camera"}
    assert robot.cameras == {}
    assert take_cameras(SimpleNamespace()) == {}
