"""Whether the measured pose can be one that episodes of the training started from.

An exchange of joints, a sign or a unit explains a pose that looks wrong; the explanation is named
only if it brings every joint that it concerns back among the recorded starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec

from .facts import DeploymentFacts, Ranges, Vector
from .finding import Finding, fine, hard, soft, unknown

FLOORS = {"rad": 0.3, "m": 0.03, "degrees": 17.0, "percent": 50.0, "normalized": 0.5}
"""Deviations from the recorded starts that an operator who places a robot by hand may cause, by
unit. In recordings of a real robot, starts of one joint differ by as much."""
UNKNOWN_VARIETY = 0.5
"""The variety of starts, as a share of the recorded range, where too few are known."""
EXACT = 1 / 3
"""The share of a floor within which an explanation must match."""
FEWEST_EPISODES = 3
OUTSIDE = 0.5
"""The share of the recorded range by which a joint may stand outside of all that was recorded."""
FAR_OUTSIDE = 1.5
"""The same in floors: no policy has seen such a pose, however small the recorded range is."""
SCALES = (
    (math.pi / 180, "degrees where the training has radians"),
    (180 / math.pi, "radians where the training has degrees"),
    (1e-3, "thousandths of the unit of the training"),
    (1e3, "thousands of the unit of the training"),
)
"""Factors from what is measured to what was recorded, and what they mean."""
TELLING = 1.0
"""Floors: a recorded value at least so large tells a factor from a coincidence."""
OPEN, METRES_OPEN = 0.6, (0.03, 0.12)
"""An open gripper, from 0 to 1 and in metres."""
MOST_EXCHANGED = 16
"""Joints of which all exchanges are tried."""

_SIDES = (("left", "right"), ("Left", "Right"))


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A measured pose beside the recorded ones.

    Attributes:
        names, units: of the dimensions.
        value: measured.
        floors: see `FLOORS`.
        lower, upper: the recorded starts, with a margin for their variety.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    value: Vector
    floors: Vector
    lower: Vector
    upper: Vector
    start: Ranges
    state: Ranges

    @classmethod
    def of(cls, facts: DeploymentFacts, spec: RobotSpec, value: NDArray[np.floating]) -> Pose:
        """Prepares the comparison; the facts have the ranges of states and starts."""
        assert facts.start is not None and facts.state is not None
        is_by_difference = spec.is_commanded_by_differences
        names = spec.state_names if is_by_difference else spec.joint_names
        units = spec.state_units if is_by_difference else spec.units
        floors = np.array([FLOORS.get(unit, FLOORS["normalized"]) for unit in units])
        margin = _margin(facts.start, facts.state, floors, facts.episodes)
        return cls(
            names=names,
            units=units,
            value=np.asarray(value, np.float64),
            floors=floors,
            lower=facts.start.least - margin,
            upper=facts.start.most + margin,
            start=facts.start,
            state=facts.state,
        )

    def fits(self, value: Vector) -> NDArray[np.bool_]:
        """Returns which dimensions of a pose are among the recorded starts."""
        return (value >= self.lower) & (value <= self.upper)

    @property
    def is_far_outside(self) -> NDArray[np.bool_]:
        """Which dimensions are far outside of everything that was recorded."""
        reach = np.maximum(
            OUTSIDE * (self.state.most - self.state.least), FAR_OUTSIDE * self.floors
        )
        return (self.value < self.state.least - reach) | (self.value > self.state.most + reach)

    def unit(self, dim: int) -> str:
        """Returns ' rad', or '' where the unit needs no word."""
        return "" if self.units[dim] == "normalized" else f" {self.units[dim]}"

    def told(self, dim: int) -> str:
        """Returns 'elbow at 1.2 rad, recorded starts -0.3 to -0.2 rad'."""
        low, high, unit = self.start.least[dim], self.start.most[dim], self.unit(dim)
        between = f"{low:.3g}" if high - low < 5e-4 else f"{low:.3g} to {high:.3g}"
        return f"{self.names[dim]} at {self.value[dim]:.3g}{unit}, recorded starts {between}{unit}"


def judge_pose(
    facts: DeploymentFacts, spec: RobotSpec, value: NDArray[np.floating]
) -> list[Finding]:
    """Judges the measured pose: where it is, and what explains it if it is somewhere else."""
    if facts.start is None or facts.state is None:
        return [unknown("start_pose")]
    if len(value) != facts.start.dim or facts.start.dim != facts.state.dim:
        return [unknown("start_pose", f"{len(value)} states, {facts.start.dim} recorded ones")]
    pose = Pose.of(facts, spec, value)
    is_wrong = ~pose.fits(pose.value)
    if not is_wrong.any():
        return [fine("start_pose", f"all {len(value)} joints are among the recorded starts")]
    if spec.is_commanded_by_differences:
        turned = pose.fits(pose.value - 2 * np.pi) | pose.fits(pose.value + 2 * np.pi)
        is_wrong &= ~(turned & (np.array(pose.units) == "rad"))  # half a turn to either side
        found = list(_elsewhere(pose, is_wrong, frozenset()))
        found = [replace(finding, is_hard=False) for finding in found]
        return found or [fine("start_pose", "the pose is among the recorded starts")]
    explained = (
        _exchanged_arms(pose, is_wrong)
        or _scaled(pose, is_wrong)
        or _exchanged_joints(pose, is_wrong)
        or _negated(pose, is_wrong)
    )
    found = explained or list(_elsewhere(pose, is_wrong, _gripper_dims(spec, pose.names)))
    if facts.episodes < FEWEST_EPISODES:  # so few starts refuse nothing
        found = [replace(finding, is_hard=False) for finding in found]
    return found


def _margin(start: Ranges, state: Ranges, floors: Vector, episodes: int) -> Vector:
    """Returns how far outside the recorded starts another good start may be.

    The variety of starts is pooled over all joints, because few episodes say little about one.
    """
    recorded = state.most - state.least
    varied = start.most - start.least
    moving = recorded > floors
    shares = varied[moving] / recorded[moving]
    variety = float(np.median(shares)) if shares.size else 0.0
    if episodes < FEWEST_EPISODES:
        variety = max(variety, UNKNOWN_VARIETY)
    few = 1 + 4 / max(episodes, 1)
    return np.maximum.reduce(
        [floors, 0.1 * recorded, 0.5 * few * varied, 1.5 * few * variety * recorded]
    )


def _elsewhere(
    pose: Pose, is_wrong: NDArray[np.bool_], grippers: frozenset[int]
) -> Iterator[Finding]:
    """Says which joints stand elsewhere; far outside of all that was recorded is refused."""
    far = [int(dim) for dim in np.flatnonzero(is_wrong & pose.is_far_outside)]
    near = [int(dim) for dim in np.flatnonzero(is_wrong) if int(dim) not in far]
    if far:
        dim = far[0]
        low, high = pose.state.least[dim], pose.state.most[dim]
        name = "gripper_unit" if dim in grippers else "start_pose"
        yield hard(
            name,
            f"{pose.told(dim)}, recorded anywhere {low:.3g} to {high:.3g}{_more(pose, far)}",
            "Check the unit, the zero and the calibration of the joint, or move the robot to where "
            "episodes were started",
        )
    elif near and (finding := _in_metres(pose, near, grippers)):
        yield finding
    elif near:
        dim = max(near, key=lambda d: _distance(pose, d))
        hint = (
            "Open or close the gripper as in the recordings, or check its unit and which of its "
            "values is open"
            if all(d in grippers for d in near)
            else "Move the robot to where episodes were started"
        )
        yield soft("start_pose", f"{pose.told(dim)}{_more(pose, near)}", hint)


def _in_metres(pose: Pose, dims: Sequence[int], grippers: frozenset[int]) -> Finding | None:
    """Returns that grippers, recorded as open from 0 to 1, may be measured in metres."""
    for dim in dims:
        is_open = pose.units[dim] == "normalized" and pose.start.least[dim] >= OPEN
        if dim not in grippers or not is_open:
            return None
        if not METRES_OPEN[0] <= pose.value[dim] <= METRES_OPEN[1]:
            return None
    return soft(
        "gripper_unit",
        f"{pose.told(dims[0])}: almost closed, or open in metres{_more(pose, dims)}",
        "Open the gripper as in the recordings, or convert its unit in the driver",
    )


def _more(pose: Pose, dims: Sequence[int]) -> str:
    others = ", ".join(pose.names[dim] for dim in dims[1:4])
    rest = f" and {len(dims) - 4} more" if len(dims) > 4 else ""
    return f" (also {others}{rest})" if others else ""


def _distance(pose: Pose, dim: int) -> float:
    value = pose.value[dim]
    outside = max(pose.start.least[dim] - value, value - pose.start.most[dim])
    return float(outside / pose.floors[dim])


def _gripper_dims(spec: RobotSpec, names: Sequence[str]) -> frozenset[int]:
    """Returns the dimensions of grippers, by their names."""
    return frozenset(dim for dim, name in enumerate(names) if is_gripper(name))


def is_gripper(name: str) -> bool:
    """Whether a joint's name is a gripper's."""
    return any(word in name.lower() for word in ("gripper", "finger", "claw", "jaw"))


def other_side(name: str) -> str | None:
    """Returns the name of the same joint of the other arm; None if the name has no side."""
    for left, right in _SIDES:
        if left in name:
            return name.replace(left, right, 1)
        if right in name:
            return name.replace(right, left, 1)
    return None


def side_of(name: str) -> str | None:
    """Returns 'left' or 'right', if a name contains one of them."""
    return next((side for side in ("left", "right") if side in name.lower()), None)


def mirrored_dims(names: Sequence[str]) -> list[int] | None:
    """Returns where each joint's counterpart of the other arm is; None without two arms."""
    places = {name: dim for dim, name in enumerate(names)}
    found = [places.get(other_side(name) or "", dim) for dim, name in enumerate(names)]
    return found if found != list(range(len(names))) else None


def _exchanged_arms(pose: Pose, is_wrong: NDArray[np.bool_]) -> list[Finding]:
    """Whether the left arm's values are the right one's and the other way round."""
    dims = mirrored_dims(pose.names)
    if dims is None or is_wrong.sum() < 2:
        return []
    exchanged = pose.value[dims]
    moved = np.array([dim != place for place, dim in enumerate(dims)])
    if not pose.fits(exchanged)[moved].all() or (is_wrong & ~moved).any():
        return []
    dim = int(np.flatnonzero(is_wrong)[0])
    return [
        hard(
            "arms_swapped",
            f"{pose.told(dim)}; {pose.names[dims[dim]]} is at {pose.value[dims[dim]]:.3g}"
            f"{pose.unit(dim)}, so the left and the right arm seem to be exchanged",
            "Exchange the topics, addresses or cables of the two arms",
        )
    ]


def _scaled(pose: Pose, is_wrong: NDArray[np.bool_]) -> list[Finding]:
    """Whether all joints of one unit are measured in another one."""
    for unit in dict.fromkeys(pose.units):
        of_unit = np.array([each == unit for each in pose.units])
        if unit == "normalized" or not (is_wrong & of_unit).any():
            continue
        for factor, words in SCALES:
            scaled = pose.value * factor
            telling = is_wrong & of_unit & (np.abs(pose.start.middle) >= TELLING * pose.floors)
            if not telling.any() or not _is_among(pose, scaled)[of_unit].all():
                continue
            dim = int(np.flatnonzero(telling)[0])
            return [
                hard(
                    "joint_unit",
                    f"{pose.told(dim)}: looks like {words}",
                    "Convert the unit in the driver, for states and commands",
                )
            ]
    return []


def _is_among(pose: Pose, value: Vector) -> NDArray[np.bool_]:
    """Which dimensions are among the starts, with a narrower margin: the explanation must be
    good."""
    margin = np.maximum(EXACT * pose.floors, 0.1 * (pose.state.most - pose.state.least))
    return (value >= pose.start.least - margin) & (value <= pose.start.most + margin)


def _exchanged_joints(pose: Pose, is_wrong: NDArray[np.bool_]) -> list[Finding]:
    """Whether another order of the values brings all joints among the recorded starts."""
    dims = [int(dim) for dim in np.flatnonzero(is_wrong)]
    order = _assignment(pose, dims) if 2 <= len(dims) <= MOST_EXCHANGED else None
    if order is None and len(dims) >= 2:
        order = _usual_order(pose)
    if order is None:
        return []
    taken = ", ".join(
        f"{pose.names[dim]} from {pose.names[place]}"
        for dim, place in enumerate(order)
        if dim != place
    )
    return [
        hard(
            "joint_order",
            f"{pose.told(dims[0])}; in another order all joints are among them ({taken})",
            "Give the driver's states and commands the order of the robot's joint names",
        )
    ]


def _usual_order(pose: Pose) -> list[int] | None:
    """Returns the first of the orders that other drivers use which fits; None if none does."""
    count = len(pose.names)
    half = count // 2
    arms = [range(half), range(half, count)] if mirrored_dims(pose.names) else [range(count)]
    rotated = [
        [arm[(place + step) % len(arm)] for arm in arms for place in range(len(arm))]
        for step in (1, -1)
    ]  # the gripper first instead of last, or the other way round
    reversed_ = [place for arm in arms for place in reversed(arm)]
    orders = [*rotated, reversed_]
    if len(arms) == 2:
        orders.append([place for pair in zip(*arms, strict=False) for place in pair])
    for order in orders:
        if len(order) == count and _is_among(pose, pose.value[order]).all():
            return order
    return None


def _assignment(pose: Pose, dims: Sequence[int]) -> list[int] | None:
    """Returns the place of each joint's value if `dims` exchange theirs; None if that fails."""
    margin = np.maximum(EXACT * pose.floors, 0.1 * (pose.state.most - pose.state.least))
    options = {
        dim: [
            place
            for place in dims
            if place != dim
            and pose.start.least[dim] - margin[dim]
            <= pose.value[place]
            <= pose.start.most[dim] + margin[dim]
        ]
        for dim in dims
    }
    taken: dict[int, int] = {}

    def place_for(dim: int, seen: set[int]) -> bool:
        """Finds an augmenting path of a bipartite matching (Kuhn's algorithm)."""
        for place in options[dim]:
            if place in seen:
                continue
            seen.add(place)
            if place not in taken or place_for(taken[place], seen):
                taken[place] = dim
                return True
        return False

    if not all(place_for(dim, set()) for dim in dims):
        return None
    order = list(range(len(pose.names)))
    for place, dim in taken.items():
        order[dim] = place
    return order


def _negated(pose: Pose, is_wrong: NDArray[np.bool_]) -> list[Finding]:
    """Whether the joints that stand elsewhere only have the other sign."""
    dims = [int(dim) for dim in np.flatnonzero(is_wrong)]
    mirrored = _is_among(pose, -pose.value)
    if not all(mirrored[dim] for dim in dims):
        return []
    dim = dims[0]
    return [
        hard(
            "joint_sign",
            f"{pose.told(dim)}: the sign seems to be inverted{_more(pose, dims)}",
            "Invert the joint in the driver, for states and commands, or its calibration",
        )
    ]
