"""Runs against the fake arm with a bundle that says what it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from .fake_arm.arm import IMAGE_SHAPE, ORDINARY_BRIGHTNESS, START
from .fake_arm.runs import Outcome, Scenario

Outcomes = Callable[[str], Outcome]


def summary(**changes: Any) -> dict[str, Any]:
    """What a bundle says that was trained on circles of this arm."""
    start = {name: list(START) for name in ("min", "max", "q01", "q99")}
    span = {
        "min": [-0.45, -0.45, 0.4],
        "max": [0.45, 0.45, 0.6],
        "q01": [-0.4, -0.4, 0.5],
        "q99": [0.4, 0.4, 0.5],
    }
    camera = {
        "frames": 32,
        "mean": [float(ORDINARY_BRIGHTNESS)] * 3,
        "contrast": 6.0,
        "coloured": [0.0, 0.0],
        "height": IMAGE_SHAPE[0],
        "width": IMAGE_SHAPE[1],
        "changing": 1.0,
        "image_hz": 25.0,
    }
    said = {
        "fps": 25,
        "episodes": 20,
        "frames": 2000,
        "state": span,
        "action": span,
        "start": {"state": start, "action": start},
        "cameras": {"top": camera, "wrist": camera},
    }
    return said | changes


def planted(kind: str, *arguments: str, **entry: Any) -> Scenario:
    """A run with something that is wrong from the beginning."""
    faults = [{"kind": kind, "at": -1, **entry}]
    return Scenario(faults=faults, summary=summary(), arguments=arguments, steps=50)


SCENARIOS = {
    "good": Scenario(summary=summary(), steps=50),
    "inverted": planted("inverted", joint=1),
    "frozen": planted("camera_same", "--accept", "start_pose"),
    "black": planted("picture", "--accept", "camera_black", brightness=[2]),
    "elsewhere": Scenario(summary=summary(), start=(0.4, 1.2, 0.5)),
}


def test_a_robot_as_in_training_is_driven_and_begins_slowly(outcome: Outcomes) -> None:
    done = outcome("good")
    assert done.status == 0
    found = done.report["deployment"]
    assert found["suspicions"] == [] and found["accepted"] == []
    assert "cameras_swapped" in found["not_judged"]  # the bundle has no pictures
    commands = np.array([command.values for command in done.log.commands])
    steps = np.linalg.norm(np.diff(commands[:, :2], axis=0), axis=1)
    # A quarter of the speed at first; the last commands are those that brake.
    assert np.median(steps[10:20]) < 0.5 * np.median(steps[-22:-12])


def test_a_joint_that_moves_the_other_way_stops_the_robot(outcome: Outcomes) -> None:
    done = outcome("inverted")
    assert done.status == 1
    report = done.report
    assert (report["outcome"], report["stopped_by"]) == ("failed", "deployment_check")
    assert report["reason"].startswith("joint_sign: elbow: commanded by")
    assert "it moves the other way" in done.errors
    sent = [command for command in done.log.commands if not command.is_stopped]
    lasted_s = (sent[-1].arrived_ns - sent[0].arrived_ns) * 1e-9
    assert lasted_s < 2.5
    moved = np.ptp([command.measured[1] for command in done.log.commands])
    assert moved < 0.35  # rad, braking included


@pytest.mark.parametrize(
    ("name", "check"), [("frozen", "camera_frozen"), ("elsewhere", "start_pose")]
)
def test_a_hard_suspicion_refuses_the_robot_before_any_command(
    outcome: Outcomes, name: str, check: str
) -> None:
    done = outcome(name)
    assert done.status == 1 and not done.log.commands
    assert f"deployment check: {check}: " in done.errors
    assert f"If it is right as it is: --accept {check}" in done.errors


def test_an_accepted_suspicion_is_reported_and_the_robot_driven(outcome: Outcomes) -> None:
    done = outcome("black")
    assert done.status == 0 and done.log.commands
    accepted = done.report["deployment"]["accepted"]
    assert {each["name"] for each in accepted} == {"camera_black"}
    assert "deployment check (accepted): camera_black: top" in done.errors
