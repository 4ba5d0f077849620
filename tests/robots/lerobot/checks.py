"""What the driver does with real LeRobot, checked in LeRobot's own environment, in one process.

    python checks.py SOURCES FOLDER DOCUMENT     prints a JSON object: check -> fault, or ''

SOURCES is the folder of the package flux_driver; FOLDER is for calibration files; DOCUMENT has the
example of a config.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path[:0] = [sys.argv[1], str(Path(__file__).parent)]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import yaml  # noqa: E402
from fake_bus import GOAL, MOTORS, RANGES, TORQUE, FakeBus, write_calibration  # noqa: E402

from flux_driver.lerobot import feeds  # noqa: E402
from flux_driver.lerobot.driver import LeRobotDriver  # noqa: E402
from flux_driver.robot import DriverError  # noqa: E402

FOLDER = Path(sys.argv[2])
KIND = "so101_follower"


def driver(bus: FakeBus, **entries: Any) -> LeRobotDriver:
    """Returns the driver of a calibrated arm."""
    config = {"port": bus.port, "id": "arm", "calibration_dir": str(FOLDER)} | entries
    return LeRobotDriver(KIND, config, control_hz=25)


def patiently(call: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the driver again after a failure, as the driver's host does: on a busy machine an
    answer may come too late for the motors' SDK."""
    for _ in range(5):
        with suppress(DriverError):
            return call(*arguments)
    return call(*arguments)


def refusal(call: Callable[[], Any]) -> str:
    """Returns the message of the DriverError that a call raises."""
    try:
        call()
    except DriverError as error:
        assert "\n" not in str(error)
        return str(error)
    raise AssertionError("expected a refusal, got none")


def limits_are_what_lerobot_makes_of_the_ends_of_the_calibration() -> None:
    for use_degrees in (True, False):
        with FakeBus() as bus:
            robot = driver(bus, use_degrees=use_degrees)
            robot.connect()
            for end, limits in ((0, robot.spec["lower"]), (1, robot.spec["upper"])):
                for number, servo in bus.servos.items():
                    servo.memory[TORQUE] = 0
                    servo.position = RANGES[number][end]
                state, _ = patiently(robot.read_state)
                assert abs(state - limits).max() < 0.1, (state, limits)
            robot.close()


def units_follow_use_degrees() -> None:
    with FakeBus() as bus:
        assert driver(bus).spec["units"] in (["degrees"] * 5 + ["percent"], ["percent"] * 6)
        assert driver(bus, use_degrees=True).spec["units"][0] == "degrees"
        assert driver(bus, use_degrees=False).spec["units"] == ["percent"] * 6


def the_default_velocity_is_the_same_in_both_units() -> None:
    with FakeBus() as bus:
        degrees = driver(bus, use_degrees=True).spec
        percent = driver(bus, use_degrees=False).spec
    for place in range(5):
        share = (degrees["upper"][place] - degrees["lower"][place]) / 200
        assert abs(percent["max_velocity"][place] * share - 60) < 1e-6
    assert degrees["max_velocity"][5] == percent["max_velocity"][5] == 100


def the_user_states_limits_per_joint() -> None:
    with FakeBus() as bus:
        own = {"max_velocity": 30, "max_jerk": 900, "upper": {"gripper": 80}}
        spec = driver(bus, flux=own).spec
        assert spec["max_velocity"] == [30] * 6 and spec["max_jerk"] == [900] * 6
        assert spec["upper"][5] == 80 and "max_acceleration" not in spec
        wide = refusal(lambda: driver(bus, flux={"upper": {"gripper": 120}}))
        assert "gripper.pos: expected a range within 0 to 100" in wide, wide
        unknown = refusal(lambda: driver(bus, flux={"upper": {"gripr": 80}}))
        assert "got 'gripr'" in unknown, unknown


def a_missing_calibration_is_refused_before_the_port_is_opened() -> None:
    config = {"port": "/dev/nothing", "id": "new arm", "calibration_dir": str(FOLDER)}
    text = refusal(lambda: LeRobotDriver(KIND, config))
    assert f"{FOLDER}/new arm.json" in text, text
    assert "lerobot-calibrate --robot.type=so101_follower --robot.port=/dev/nothing" in text, text
    assert "--robot.id='new arm'" in text, text


def a_calibration_that_is_not_the_motors_own_is_refused_with_the_torque_as_it_was() -> None:
    with FakeBus({**RANGES, 4: (900, 3000)}) as bus:
        robot = driver(bus)
        text = refusal(robot.connect)
        assert "wrist_flex: expected homing_offset 0, range_min 1040, range_max 2920" in text, text
        assert "got homing_offset 0, range_min 900, range_max 3000" in text, text
        assert not bus.writes
        robot.close()


def a_motor_that_is_missing_at_connect_is_named() -> None:
    with FakeBus() as bus:
        bus.silent.add(4)
        robot = driver(bus)
        text = refusal(robot.connect)
        assert text.startswith(f"wrist_flex (id 4) on {bus.port} does not answer"), text
        robot.close()


def a_port_that_does_not_exist_is_named() -> None:
    write_calibration(FOLDER / "arm.json")
    config = {"port": "/dev/nothing", "id": "arm", "calibration_dir": str(FOLDER)}
    text = refusal(LeRobotDriver(KIND, config).connect)
    assert "/dev/nothing" in text, text


def late_answers_are_never_taken_for_positions() -> None:
    with FakeBus() as bus:
        robot = driver(bus)
        robot.connect()
        for _ in range(5):
            bus.late_s = 0.07
            with suppress(DriverError):
                robot.read_state()
            state, _ = patiently(robot.read_state)
            assert abs(state[:4]).max() < 10, state  # servos at 2047, about the middle
            patiently(robot.send, state, 0.0)
        goals = {write.value for write in bus.writes if write.address == GOAL}
        assert goals <= {2046, 2047}, goals
        assert not robot.take_warnings()
        robot.close()


def a_goal_that_comes_from_a_misread_position_is_taken_back() -> None:
    with FakeBus() as bus:
        robot = driver(bus, use_degrees=True)
        robot.connect()
        state, _ = patiently(robot.read_state)
        inner = robot._robot.bus
        read = inner.sync_read
        inner.sync_read = lambda *a, **k: {
            name: value - 90 for name, value in read(*a, **k).items()
        }
        patiently(robot.send, state, 0.0)
        values = [write.value for write in bus.written(GOAL, 1)]
        assert values[-2] < 1500 and values[-1] in (2046, 2047), values
        assert [name for name, _ in robot.take_warnings()] == ["lerobot_misread"]
        robot.close()


def a_user_who_wants_lerobots_settings_gets_them() -> None:
    with FakeBus() as bus:
        robot = driver(bus, max_relative_target=5, disable_torque_on_disconnect=True)
        robot.connect()
        state, _ = patiently(robot.read_state)
        patiently(robot.send, state + 8, 0.0)
        assert [name for name, _ in robot.take_warnings()] == ["lerobot_clipped"]
        robot.close()
        assert not any(servo.memory[TORQUE] for servo in bus.servos.values())


def unknown_entries_are_named_with_the_known_ones() -> None:
    with FakeBus() as bus:
        text = refusal(lambda: driver(bus, prt="x"))
        assert "got 'prt'. Did you mean 'port'?" in text and "use_degrees" in text, text
        camera = {"type": "opencv", "index_or_pth": 0, "width": 64, "height": 48, "fps": 30}
        text = refusal(lambda: driver(bus, cameras={"top": camera}))
        assert "so101_follower.cameras.top" in text and "'index_or_path'" in text, text
        text = refusal(lambda: driver(bus, cameras={"top": {"type": "opencv", "index_or_path": 0}}))
        assert "is required" in text, text
        text = refusal(lambda: LeRobotDriver(KIND, {}))
        assert "expected 'port', got none" in text, text
        text = refusal(lambda: LeRobotDriver("so101_folower", {}))
        assert "Known: " in text and "so101_follower" in text, text


def the_documented_config_is_accepted() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", Path(sys.argv[3]).read_text(), re.DOTALL)
    [config] = [yaml.safe_load(block) for block in blocks if block.startswith("port: ")]
    write_calibration(FOLDER / f"{config['id']}.json")
    robot = LeRobotDriver(KIND, {**config, "calibration_dir": str(FOLDER)})
    assert robot.spec["cameras"] == ["front", "wrist"]
    assert robot.spec["max_velocity"] == [120, 120, 120, 180, 180, 200]


def two_arms_are_one_robot() -> None:
    for name in ("two_left", "two_right"):
        write_calibration(FOLDER / f"{name}.json")
    with FakeBus() as left, FakeBus() as right:
        config = {"id": "two", "calibration_dir": str(FOLDER)}
        parts = {"left_arm_config": {"port": left.port}, "right_arm_config": {"port": right.port}}
        try:
            robot = LeRobotDriver("bi_so_follower", config | parts)
        except DriverError:  # LeRobot 0.3 calls it otherwise
            ports = {"left_arm_port": left.port, "right_arm_port": right.port}
            robot = LeRobotDriver("bi_so100_follower", config | ports)
        assert robot.spec["joint_names"][6] == "right_shoulder_pan.pos"
        robot.connect()
        state, _ = patiently(robot.read_state)
        state[6] += 10
        patiently(robot.send, state, 0.0)
        right.silent.add(2)
        assert "right_shoulder_lift (id 2)" in refusal(robot.read_state)
        robot.stop(2)
        robot.close()
        assert right.written(GOAL, 1)[-2].value - left.written(GOAL, 1)[-2].value > 50
        for bus in (left, right):
            assert all(servo.memory[TORQUE] for servo in bus.servos.values())


class Capture:
    """Stands for cv2.VideoCapture: a red picture, 30 times a second, until it is unplugged."""

    made = 0

    def __init__(self, *_: Any) -> None:
        Capture.made += 1
        self._left = 10 if Capture.made == 1 else 10_000
        self._values: dict[int, float] = {}

    def isOpened(self) -> bool:
        return True

    def set(self, name: int, value: float) -> bool:
        self._values[name] = value
        return True

    def get(self, name: int) -> float:
        return self._values.get(name, 0.0)

    def read(self) -> tuple[bool, Any]:
        time.sleep(1 / 30)
        self._left -= 1
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[..., 2] = 255  # OpenCV's order is blue, green, red
        return (True, picture) if self._left >= 0 else (False, None)

    def release(self) -> None:
        self._left = 0


def lerobots_own_camera_is_read_in_rgb_and_connected_again() -> None:
    feeds.WAIT_MS, feeds.PAUSE_S = 200.0, 0.05
    usual, cv2.VideoCapture = cv2.VideoCapture, Capture
    camera = {"type": "opencv", "index_or_path": 0, "width": 64, "height": 48, "fps": 30}
    try:
        with FakeBus() as bus:
            robot = driver(bus, cameras={"front": {**camera, "warmup_s": 0}})
            robot.connect()
            image, first_s = robot.read_frames(["front"])["front"]
            assert image.shape == (48, 64, 3)
            assert image[0, 0].tolist() == [255, 0, 0]
            limit_s = time.monotonic() + 30
            while Capture.made < 2 or robot.read_frames(["front"])["front"][1] < first_s + 0.6:
                assert time.monotonic() < limit_s, "expected the camera to be connected again"
                time.sleep(0.02)
            robot.close()
    finally:
        cv2.VideoCapture = usual


CHECKS = [
    value
    for value in list(globals().values())
    if callable(value) and getattr(value, "__module__", "") == __name__
]
HELPERS = (driver, patiently, refusal, Capture)


def main() -> None:
    """Runs all checks."""
    with suppress(PermissionError):  # the servos share this process's interpreter lock
        os.nice(-15)
    assert len(MOTORS) == len(RANGES)
    write_calibration(FOLDER / "arm.json")
    found = {}
    for check in CHECKS:
        if check in HELPERS:
            continue
        begun_s = time.monotonic()
        try:
            check()
            found[check.__name__] = ""
        except Exception:  # noqa: BLE001 - all are told
            found[check.__name__] = traceback.format_exc()
        print(f"{check.__name__}: {time.monotonic() - begun_s:.2f} s", file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
