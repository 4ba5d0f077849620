"""The complete limits of a real robot, and where each value comes from.

A description need not state every limit, but the safety filter of a real robot needs all of them.
Those that nobody states are derived from the driver's `max_velocity`, as it is before anybody
tightens it: a slower run then differs from a fast one in its velocity alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .families import described_as
from .limits import OPTIONAL_LIMITS, limits_in_force
from .spec import RobotSpec, with_limits
from .tightening import POSITION_OPTION, RATE_OPTIONS, Tightening

ACCELERATION_TIME_S = 0.2
JERK_TIME_S = 0.05
"""From rest to `max_velocity`, and from no acceleration to `max_acceleration`: as quick as people
who tele-operate an arm. Of the commands that we measured (docs/safety.md), 99 % pass the safety
filter unchanged; with twice the time for the acceleration, 93 % do."""
FOLLOWING_TIME_S = 0.1
"""How far an arm at `max_velocity` may be behind. Position servos lag by their own time constant
and a few periods of transport, together well below 0.1 s; a blocked arm is found after 0.1 s."""
BORDER_TIME_S = 0.2
"""How far a chunk may begin from the last command: where `max_velocity` leads within 0.2 s. A chunk
that begins farther away is not of this state."""
START_TOLERANCE = {"rad": 0.05, "m": 0.01, "normalized": 0.05, "degrees": 3.0, "percent": 5.0}
"""By unit: a sagging or badly calibrated joint, about 3 degrees; not a joint in another unit."""

DRIVER, BUNDLE = "the driver", "the bundle"
_FIELDS = (
    *("lower", "upper", "max_velocity", "max_acceleration", "max_jerk"),
    *("start_tolerance", "max_following_error", "max_border_jump"),
)


@dataclass(frozen=True, kw_only=True)
class MotionLimits:
    """What a real robot may do in one run. Tuples have one value per joint, in the joint's unit.

    For a robot that is commanded by differences, whose states are not commands, the last three are
    empty, and so are `max_acceleration` and `max_jerk` unless its driver states them.

    Attributes:
        spec: the robot's description, with the limits in force.
        max_border_jump: largest distance between the last command and the first row of a chunk.
        sources: field -> where the value comes from, for each joint.
    """

    spec: RobotSpec
    max_border_jump: tuple[float, ...]
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def lower(self) -> tuple[float, ...]:
        """Smallest command."""
        return self.spec.lower

    @property
    def upper(self) -> tuple[float, ...]:
        """Largest command."""
        return self.spec.upper

    @property
    def max_velocity(self) -> tuple[float, ...]:
        """Largest change of the command per second."""
        return self.spec.max_velocity

    @property
    def max_acceleration(self) -> tuple[float, ...]:
        """Largest change of velocity per second."""
        return self.spec.max_acceleration

    @property
    def max_jerk(self) -> tuple[float, ...]:
        """Largest change of acceleration per second."""
        return self.spec.max_jerk

    @property
    def start_tolerance(self) -> tuple[float, ...]:
        """How far outside the position limits the robot may stand before a run."""
        return self.spec.start_tolerance

    @property
    def max_following_error(self) -> tuple[float, ...]:
        """Largest distance between the command and the measured position."""
        return self.spec.max_following_error

    @property
    def holds_without_power(self) -> bool:
        """Whether stops may remove power."""
        return self.spec.holds_without_power

    def as_data(self) -> dict[str, object]:
        """Returns plain data for a report: field -> joint -> value and source."""
        data: dict[str, object] = {"holds_without_power": self.holds_without_power}
        for name, sources in self.sources.items():
            rows = zip(self.spec.joint_names, self._values(name), sources, strict=True)
            data[name] = {joint: {"value": x, "source": source} for joint, x, source in rows}
        return data

    def lines(self) -> list[str]:
        """Returns the limits as text: a table with a row per joint, then a source per column."""
        short = {"normalized": "1", "degrees": "deg", "percent": "%"}
        units = [short.get(unit, unit) for unit in self.spec.units]
        columns = [
            ["", *self.spec.joint_names],
            ["unit", *units],
            *([name, *(f"{x:.5g}" for x in self._values(name))] for name in self.sources),
        ]
        widths = [max(map(len, column)) for column in columns]
        cells = zip(*columns, strict=True)
        table = [
            "  ".join(
                text.ljust(width) if place < 2 else text.rjust(width)
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        allowed = "stop categories 0, 1 and 2" if self.holds_without_power else "only category 2"
        return [
            *table,
            *(f"{name}: {self._origin(name)}" for name in self.sources),
            f"holds_without_power: {self.holds_without_power}, so {allowed} ({DRIVER})",
        ]

    def _values(self, name: str) -> tuple[float, ...]:
        return self.max_border_jump if name == "max_border_jump" else getattr(self.spec, name)

    def _origin(self, name: str) -> str:
        """'--limit for elbow; otherwise the driver'."""
        sources = self.sources[name]
        *special, usual = sorted(dict.fromkeys(sources), key=sources.count)
        pairs = list(zip(self.spec.joint_names, sources, strict=True))
        parts = [
            f"{each} for {', '.join(joint for joint, source in pairs if source == each)}"
            for each in special
        ]
        return "; otherwise ".join([", ".join(parts), usual] if parts else [usual])


def motion_limits(
    driver: RobotSpec, carried: RobotSpec | None = None, tightening: Tightening | None = None
) -> MotionLimits:
    """Returns the complete limits of a real robot: the tightest of all that is stated.

    Args:
        driver: the description from the robot's driver.
        carried: the one in the bundle, if it describes its robot.
        tightening: what the user tightens for this run.

    Raises:
        RobotError: driver and bundle contradict each other, or the bundle is wider.
        UsageError: the user's limits are wider, or of unknown joints.
    """
    if carried is not None:
        limits_in_force(driver, carried)  # raises if they contradict each other
        carried = described_as(driver, carried)
    building = _Building(driver)
    if carried is not None:
        building.tighten_by(carried)
    if tightening is not None:
        building.tighten_as_asked(tightening)
    stated = {name: values for name, values in building.values.items() if name != "max_border_jump"}
    pose = (carried.prepare_pose if carried else ()) or driver.prepare_pose
    return MotionLimits(
        spec=with_limits(driver, **stated, prepare_pose=pose),
        max_border_jump=building.values.get("max_border_jump", ()),
        sources={name: tuple(texts) for name, texts in building.sources.items()},
    )


class _Building:
    """Collects values and their sources, field by field."""

    def __init__(self, driver: RobotSpec) -> None:
        self.driver = driver
        self.values: dict[str, tuple[float, ...]] = {}
        self.sources: dict[str, list[str]] = {}
        defaults = _defaults(driver)
        for name in _FIELDS:
            stated: tuple[float, ...] = getattr(driver, name, ())
            if stated:
                self._set(name, stated, [DRIVER] * len(stated))
            elif name in defaults:
                self._set(name, *defaults[name])

    def tighten_by(self, carried: RobotSpec) -> None:
        """Takes each value of the bundle that is tighter."""
        for name in ("lower", "upper", "max_velocity", *OPTIONAL_LIMITS):
            theirs: tuple[float, ...] = getattr(carried, name)
            if name in self.values and theirs:
                tighter = max if name == "lower" else min
                self._replace(name, tuple(map(tighter, self.values[name], theirs)), BUNDLE)
            elif theirs:
                self._set(name, theirs, [BUNDLE] * len(theirs))

    def tighten_as_asked(self, tightening: Tightening) -> None:
        """Applies the options of one run."""
        names = self.driver.joint_names
        tightening.check_joints(self.driver.name, names)
        lower, upper = tightening.positions(names, self.values["lower"], self.values["upper"])
        self._replace("lower", lower, POSITION_OPTION)
        self._replace("upper", upper, POSITION_OPTION)
        for name, option in RATE_OPTIONS.items():
            rate = getattr(tightening, name)
            if rate and name in self.values:
                self._replace(name, rate.apply(option, names, self.values[name]), option)
            elif rate:
                tightening.apply(self.driver)  # raises: the robot states no such limit

    def _set(self, name: str, values: Sequence[float], sources: list[str]) -> None:
        self.values[name], self.sources[name] = tuple(values), sources

    def _replace(self, name: str, values: tuple[float, ...], source: str) -> None:
        for place, (before, after) in enumerate(zip(self.values[name], values, strict=True)):
            if before != after:
                self.sources[name][place] = source
        self.values[name] = values


def stated_rates(spec: RobotSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the limits of acceleration and jerk that a simulated robot's description states.

    The safety filter takes both or neither. If only one of them is stated, the other has its
    default; if none is, both are empty.
    """
    if not spec.max_acceleration and not spec.max_jerk:
        return (), ()
    acceleration = spec.max_acceleration or _acceleration(spec.max_velocity)
    return acceleration, spec.max_jerk or _jerk(acceleration)


def _acceleration(max_velocity: Sequence[float]) -> tuple[float, ...]:
    return tuple(value / ACCELERATION_TIME_S for value in max_velocity)


def _jerk(max_acceleration: Sequence[float]) -> tuple[float, ...]:
    return tuple(value / JERK_TIME_S for value in max_acceleration)


def _defaults(driver: RobotSpec) -> dict[str, tuple[tuple[float, ...], list[str]]]:
    """Returns values and sources of the limits that the driver does not state."""
    size = driver.action_dim
    found: dict[str, tuple[tuple[float, ...], list[str]]] = {}
    if not driver.is_commanded_by_differences or any(stated_rates(driver)):
        acceleration = driver.max_acceleration or _acceleration(driver.max_velocity)
        source = f"default: max_velocity within {ACCELERATION_TIME_S:g} s"
        found["max_acceleration"] = (acceleration, [source] * size)
        source = f"default: max_acceleration within {JERK_TIME_S:g} s"
        found["max_jerk"] = (_jerk(acceleration), [source] * size)
    if not driver.is_commanded_by_differences:
        tolerance = tuple(START_TOLERANCE[unit] for unit in driver.units)
        sources = [f"default: {START_TOLERANCE[unit]:g} {unit}" for unit in driver.units]
        found["start_tolerance"] = (tolerance, sources)
        errors = [_following_error(driver, place) for place in range(size)]
        found["max_following_error"] = (
            tuple(value for value, _ in errors),
            [source for _, source in errors],
        )
        jump = tuple(value * BORDER_TIME_S for value in driver.max_velocity)
        source = f"default: max_velocity for {BORDER_TIME_S:g} s"
        found["max_border_jump"] = (jump, [source] * size)
    return found


def _following_error(driver: RobotSpec, place: int) -> tuple[float, str]:
    if driver.units[place] == "normalized":
        # A gripper that holds something never reaches its command.
        return driver.upper[place] - driver.lower[place], "default: the whole range"
    source = f"default: max_velocity for {FOLLOWING_TIME_S:g} s"
    return driver.max_velocity[place] * FOLLOWING_TIME_S, source
