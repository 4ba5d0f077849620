"""The driver over RTDE, without a controller: its settings, and how it stops past `ur_rtde`."""

from __future__ import annotations

import dataclasses
import re
import socket
from typing import Any

import numpy as np
import pytest
import yaml

from flux_core.robots import ROBOT_SPECS
from flux_driver.robot import DriverError, fault_of
from flux_driver.ur import dashboard
from flux_driver.ur.rtde import UrRtdeDriver

from ...documents import ROOT

EXAMPLES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ur.md").read_text(), re.DOTALL)
SPEC = dataclasses.asdict(ROBOT_SPECS["ur3"])


def make_driver(**arguments: Any) -> UrRtdeDriver:
    """A driver of a controller that nobody has."""
    given: dict[str, Any] = {"spec": SPEC, "host": "127.0.0.9"}
    return UrRtdeDriver(**given | arguments)


def documented(key: str) -> dict[str, Any]:
    """Returns the example of docs/ur.md that has a key."""
    return next(yaml.safe_load(text) for text in EXAMPLES if f"\n{key}: " in text)


def test_the_driver_has_every_part_of_a_real_robot() -> None:
    assert fault_of(make_driver()) == ""


def test_an_arm_may_be_behind_its_command_by_the_lookahead() -> None:
    found = make_driver(lookahead_time_s=0.2).spec["max_following_error"]

    np.testing.assert_allclose(found[:6], 0.3 * np.array(SPEC["max_velocity"][:6]))
    assert found[6] == 1.0, "the whole range of a gripper, which may hold something"


def test_a_following_error_that_the_spec_states_is_kept() -> None:
    stated = [0.5] * 7

    assert (
        make_driver(spec=SPEC | {"max_following_error": stated}).spec["max_following_error"]
        == stated
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"lookahead_time_s": 0.3},
            "lookahead_time_s: expected a number from 0.03 to 0.2, got 0.3",
        ),
        ({"gain": 50}, "gain: expected a number from 100 to 2000, got 50"),
        ({"watchdog_hz": "10"}, "watchdog_hz: expected a number from 1 to 100, got '10'"),
        ({"spec": SPEC | {"joint_names": ("a", "b")}}, "expected six joints, .* got 2"),
        ({"cameras": {"cam_high": {"type": "film"}}}, "camera cam_high: type: expected one of"),
    ],
)
def test_wrong_settings_are_refused_by_name(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(Exception, match=expected):
        make_driver(**arguments)


def test_the_example_of_the_documentation_is_accepted() -> None:
    driver = UrRtdeDriver(spec=SPEC, **documented("watchdog_hz"))

    assert driver.spec["name"] == "ur3"


def test_a_camera_that_is_not_configured_is_named() -> None:
    with pytest.raises(DriverError, match="cameras: expected cam_high, got none"):
        make_driver().read_frames(["cam_high"])


def test_a_driver_that_is_not_connected_can_be_closed() -> None:
    make_driver().close()


def test_a_dashboard_that_refuses_is_not_taken_for_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as script:
        monkeypatch.setattr(dashboard, "SCRIPT_PORT", script.getsockname()[1])
        monkeypatch.setattr(dashboard, "ask", lambda *_: "Failed to execute: stop")
        reason = dashboard.stop_program("127.0.0.1")
        connection, _ = script.accept()
        with connection:
            sent.append(connection.recv(100))

    assert "the dashboard answers 'Failed to execute: stop'" in reason
    assert sent == [b"def flux_stop():\n  stopj(4.0)\nend\n"]


@pytest.mark.parametrize(
    ("category", "requests"),
    [(0, ["stop", "power off"]), (1, ["stop", "power off"]), (2, ["stop"])],
)
def test_the_power_is_removed_after_the_stop_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, category: int, requests: list[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(dashboard, "ask", lambda _, request: asked.append(request) or "Stopped")

    make_driver().stop(category)

    assert asked == requests


def test_a_stop_that_nobody_confirms_asks_for_the_emergency_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dashboard, "PORT", 9)
    monkeypatch.setattr(dashboard, "SCRIPT_PORT", 9)

    with pytest.raises(DriverError, match="not known whether the arm stands: use the emergency"):
        make_driver().stop(2)
