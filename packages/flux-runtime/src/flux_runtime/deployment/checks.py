"""All checks of a robot at rest against what its bundle says of the training."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from flux_core.robots import RobotSpec

from .cameras import SLOW, judge_cameras, judge_rates
from .facts import DeploymentFacts, Ranges
from .finding import Finding, fine, hard, soft, unknown
from .observed import LOOKS_HZ, Observed
from .pose import METRES_OPEN, is_gripper, judge_pose

NAMES = (
    *("robot_ranges", "start_pose", "arms_swapped", "joint_order", "joint_sign", "joint_unit"),
    *("gripper_unit", "control_rate", "state_rate", "latency"),
    *("camera_missing", "camera_black", "camera_frozen", "camera_size", "camera_rate"),
    *("cameras_swapped", "camera_view", "camera_colour"),
)
"""The checks, which `--accept` knows."""

RATE_TOLERANCE = 0.02
"""29.97 counts as 30."""
MOSTLY_OUTSIDE = 0.5
"""The share of a joint's recorded range beyond the robot's limits that refuses a bundle."""
PARTLY_OUTSIDE = 0.1
"""The share that warns."""
OLD_FRAME_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All findings about a robot at rest."""

    findings: tuple[Finding, ...]

    @property
    def suspicions(self) -> tuple[Finding, ...]:
        """Those that are not as they should be, the hard ones first."""
        found = [finding for finding in self.findings if not finding.is_ok]
        return tuple(sorted(found, key=lambda finding: not finding.is_hard))

    def refusing(self, accepted: Collection[str] = ()) -> tuple[Finding, ...]:
        """Returns the hard suspicions that were not accepted by name."""
        return tuple(s for s in self.suspicions if s.is_hard and s.name not in accepted)


def judge(facts: DeploymentFacts, spec: RobotSpec, observed: Observed) -> Judged:
    """Compares a robot with what a bundle says of its training set.

    Args:
        facts: what the bundle says; nothing, for an older bundle.
        spec: of the robot's driver, without limits that were tightened for a run.
        observed: what the robot showed while it stood still.
    """
    findings = (
        *_ranges(facts, spec),
        *_grippers(facts, spec),
        *judge_pose(facts, spec, observed.state),
        *_rates(facts, spec, observed),
        *_latency(facts, spec, observed),
        *judge_cameras(facts.cameras, observed),
    )
    return Judged(findings=findings)


def _ranges(facts: DeploymentFacts, spec: RobotSpec) -> Iterator[Finding]:
    """Yields whether the recorded actions are ones that this robot can execute."""
    if facts.action is None:
        yield unknown("robot_ranges")
        return
    if facts.action.dim != spec.action_dim:
        yield unknown("robot_ranges", f"{facts.action.dim} recorded actions")
        return
    shares = _outside(facts.action, spec)
    for dim, name in enumerate(spec.joint_names):
        if is_gripper(name):
            shares[dim] = 0.0  # judged as a unit
    worst = int(np.argmax(shares))
    if shares[worst] <= PARTLY_OUTSIDE:
        yield fine("robot_ranges", "the recorded actions are within the robot's limits")
        return
    names = [spec.joint_names[dim] for dim in np.flatnonzero(shares > PARTLY_OUTSIDE)]
    more = f" (also {', '.join(n for n in names if n != spec.joint_names[worst])})"
    found = (
        f"{spec.joint_names[worst]}: recorded {facts.action.low[worst]:.3g} to "
        f"{facts.action.high[worst]:.3g}, this robot's limits {spec.lower[worst]:.3g} to "
        f"{spec.upper[worst]:.3g}{more if len(names) > 1 else ''}"
    )
    if shares[worst] > MOSTLY_OUTSIDE:
        fix = f"The bundle is of another robot than {spec.name}; use one of this robot"
        yield hard("robot_ranges", found, fix)
    else:
        fix = "Motions beyond the limits are cut off; check that it is the same kind of robot"
        yield soft("robot_ranges", found, fix)


def _outside(action: Ranges, spec: RobotSpec) -> np.ndarray:
    """Returns the share of each joint's recorded range that is beyond the robot's limits."""
    lower, upper = np.asarray(spec.lower), np.asarray(spec.upper)
    width = np.maximum(action.high - action.low, 1e-3 * (upper - lower))
    below = np.clip(lower - action.low, 0.0, width)
    above = np.clip(action.high - upper, 0.0, width)
    return (below + above) / width


def _grippers(facts: DeploymentFacts, spec: RobotSpec) -> Iterator[Finding]:
    """Yields whether the grippers' recorded values are in the robot's unit."""
    grippers = [dim for dim, name in enumerate(spec.joint_names) if is_gripper(name)]
    if not grippers:
        return
    action = facts.action
    if action is None or action.dim != spec.action_dim:
        yield unknown("gripper_unit")
        return
    for dim in grippers:
        lower, upper = spec.lower[dim], spec.upper[dim]
        low, high, size = action.low[dim], action.high[dim], upper - lower
        found = (
            f"{spec.joint_names[dim]}: recorded {low:.3g} to {high:.3g}, this robot takes "
            f"{lower:.3g} to {upper:.3g} ({spec.units[dim]})"
        )
        fix = "Convert the gripper in the driver to the unit of the recordings, or use a bundle of "
        fix += "this robot"
        is_metres = upper >= 0.9 and METRES_OPEN[0] <= high <= METRES_OPEN[1] and low > -0.02
        is_share = upper >= 10 and 0.8 <= high <= 1.2
        if is_metres or is_share or high - upper > 0.5 * size or lower - low > 0.5 * size:
            yield hard("gripper_unit", found, fix)
            return
    yield fine("gripper_unit", "the recorded values are in the robot's unit")


def _rates(facts: DeploymentFacts, spec: RobotSpec, observed: Observed) -> Iterator[Finding]:
    """Yields whether states and images arrive as fast as in training."""
    if facts.fps is None:
        yield unknown("control_rate")
    elif abs(facts.fps / spec.control_hz - 1) <= RATE_TOLERANCE:
        yield fine("control_rate", f"{spec.control_hz:g} Hz, as recorded")
    else:
        found = f"{spec.control_hz:g} Hz, recorded {facts.fps:g}"
        speed = spec.control_hz / facts.fps
        if facts.may_change_rate:
            yield fine("control_rate", f"{found}, which the bundle's config allows")
        else:
            fix = f"Motions would be {speed:.2g} times as fast; use the rate of the recordings"
            yield hard("control_rate", found, fix)
    if observed.is_simulated:
        return  # its readings arrive as fast as this machine simulates
    if observed.state_hz is not None and spec.control_hz <= LOOKS_HZ / 2:
        found = f"{observed.state_hz:.1f} states per second, {spec.control_hz:g} expected"
        if observed.state_hz < SLOW * spec.control_hz:
            fix = "Check the rate at which the robot publishes its joints"
            yield soft("state_rate", found, fix)
        else:
            yield fine("state_rate", found)
    yield from judge_rates(facts.cameras, facts.fps or spec.control_hz, observed)


def _latency(facts: DeploymentFacts, spec: RobotSpec, observed: Observed) -> Iterator[Finding]:
    """Yields whether chunks and images arrive as soon as the policy was trained for."""
    trained = max(facts.trained_delays, default=0)
    fix = "Use a faster engine or machine, fewer --num-steps at export, or a lower --speed"
    if observed.too_slow is not None:
        yield soft("latency", observed.too_slow, fix)
    elif observed.latency_s is not None:
        steps = observed.latency_s * spec.control_hz
        found = f"a chunk takes {1e3 * observed.latency_s:.0f} ms, {steps:.1f} control steps"
        if trained and steps > trained:
            yield soft("latency", f"{found}, trained for at most {trained}", fix)
        elif not trained and steps > (facts.execution_horizon or np.inf):
            yield soft(
                "latency",
                f"{found}, longer than the {facts.execution_horizon} steps that are executed of it",
                "The robot would stand still most of the time. " + fix,
            )
        else:
            known = f", trained for at most {trained}" if trained else ""
            yield fine("latency", f"{found}{known}")
    for name, look in observed.cameras.items():
        age_s, hz = look.newest_age_s, look.hz or spec.control_hz
        if age_s is not None and not observed.is_simulated and age_s > max(OLD_FRAME_S, 3 / hz):
            yield soft(
                "latency",
                f"{name}: the newest image is {1e3 * age_s:.0f} ms old, expected at most "
                f"{1e3 * OLD_FRAME_S:.0f}",
                "Check the camera's transport and the clock of its stamps",
            )
