"""What a checkpoint says of its training set is in the units of the robot."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flux_core.transforms import Pipeline, UnitStep
from flux_runtime.deployment import DeploymentFacts
from flux_train.checkpoints.robot_units import summary_for_robots

from ..degrees import DegreesToRadians


class Turned(UnitStep):
    """The first joint turns the other way."""

    @property
    def action_affine(self) -> tuple[tuple[float, ...], float]:
        return (-1.0, 1.0), 0.0

    def state(self, states: Any) -> Any:
        return self.actions(states)

    def state_inverse(self, states: Any) -> Any:
        return self.actions_inverse(states)


DEGREES = DegreesToRadians(joints=(True, False))


def summary() -> dict[str, Any]:
    ends = {"min": [-90.0, 0.0], "max": [180.0, 1.0], "q01": [-80.0, 0.1], "q99": [170.0, 0.9]}
    return {
        "fps": 30.0,
        "episodes": 5,
        "state": ends,
        "action": ends,
        "start": {"state": ends, "action": ends},
        "grippers": {"gripper": {"state": {"closed": 0.1, "open": 0.9}}},
        "cameras": {},
    }


def converted(
    trained: tuple[UnitStep, ...],
    robot: tuple[UnitStep, ...],
    *others: tuple[UnitStep, ...],
) -> dict[str, Any]:
    """The summary of datasets with these steps, for a robot with those."""
    members = (trained, *others)
    dataset: Any = SimpleNamespace(
        data_summary=lambda pictures: {"arm": summary()},
        group_names=("arm",),
        group_of_datasets=("arm",) * len(members),
        datasets=[SimpleNamespace(pipeline=Pipeline(steps)) for steps in members],
    )
    runner: Any = SimpleNamespace(statistics_group=lambda groups: "arm", pipeline=Pipeline(robot))
    return summary_for_robots(dataset, {"arm": runner})["arm"]


def test_recordings_in_degrees_are_summarised_in_radians_for_a_robot_that_speaks_them() -> None:
    found = converted((DEGREES, Turned()), (Turned(),))
    for part in (found, found["start"]):
        for quantity in ("state", "action"):
            assert part[quantity]["min"] == pytest.approx([-math.pi / 2, 0.0], abs=1e-6)
            assert part[quantity]["max"] == pytest.approx([math.pi, 1.0], abs=1e-6)
    assert found["grippers"]["gripper"]["state"] == pytest.approx(
        {"closed": 0.1, "open": 0.9}, abs=1e-6
    )
    assert found["fps"] == 30.0 and found["robot_units"] == 1


def test_a_joint_that_training_turns_exchanges_the_ends_of_its_range() -> None:
    found = converted((Turned(),), ())
    assert found["state"]["min"][0] == pytest.approx(-180.0)
    assert found["state"]["max"][0] == pytest.approx(90.0)
    assert found["state"]["q01"][0] == pytest.approx(-170.0)


def test_recordings_in_several_units_have_no_ranges() -> None:
    found = converted((DEGREES,), (), ())
    assert set(found) == {"fps", "episodes", "cameras"}


def test_the_same_steps_change_nothing() -> None:
    assert converted((DEGREES,), (DEGREES,)) == {**summary(), "robot_units": 1}


@pytest.mark.parametrize(
    ("provenance", "said", "are_known"),
    [
        ({}, {}, True),
        ({"training_only": {"a": "b"}}, {}, False),
        ({"training_only": {"a": "b"}}, {"robot_units": 1}, True),
    ],
)
def test_older_summaries_are_not_compared_if_training_had_transforms_of_its_own(
    provenance: dict[str, Any], said: dict[str, Any], are_known: bool
) -> None:
    manifest: Any = SimpleNamespace(
        data_summary={**summary(), **said},
        provenance=provenance,
        state_dim=2,
        rtc_valid_delays=(0,),
        execution_horizon=8,
    )
    facts = DeploymentFacts.of(manifest)
    assert (facts.state is not None) == (facts.start is not None) == are_known
    assert facts.fps == 30.0
    if are_known:
        assert facts.start is not None and np.isfinite(facts.start.middle).all()
