"""Judges what an arm received, from the arm's own log alone. Shares no code with the filter.

What is judged, for each command, from the stamps sent with it (dt is the time since the command
before by these stamps, at most the nominal period):

- it is finite and within the position limits;
- velocity, acceleration and jerk, as differences of the commands over dt, are within the limits;
  after a gap of more than three periods, and at the start of a session, the arm is taken to stand
  where it was measured; across commands that did not arrive, as their numbers tell, only the
  velocity over the whole time is judged;
- it was not made from an observation older than a bound, unless it is flagged as held;
- sequence and time grow.

Judged as received: no step is larger than three nominal ones, and nothing is accepted after a stop.
Judged by the arm's clock: gaps between the commands of a session, that the arm rests between two
sessions, and the time from a fault to rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HELD = 1
"""The bit of the flags of a command that was not made from a row of a chunk."""
START_ERROR = 1e-4
"""In joint units: how far the measurement that a session began from may be from the arm's own."""
SPEED_AT_REST = 0.02
"""In joint units per second; a servo that approaches its command still creeps below this."""
SETTLING_NS = 300_000_000
"""What a servo's lag may take after the last command of a session, which was one at rest."""
LONGEST_GAP = 3
"""Periods after which the arm counts as standing."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of an arm, one entry per joint, and its control rate."""

    lower: Sequence[float]
    upper: Sequence[float]
    max_velocity: Sequence[float]
    max_acceleration: Sequence[float]
    max_jerk: Sequence[float]
    control_hz: float

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Limits:
        """Takes them from the fields of a robot's description."""
        return cls(**{name: spec[name] for name in cls.__dataclass_fields__})

    @property
    def period_s(self) -> float:
        """The nominal time between two commands."""
        return 1.0 / self.control_hz


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, as the arm logged it."""

    arrived_ns: int
    values: Vector
    measured: Vector
    stamp: dict[str, int]
    is_stopped: bool
    is_known: bool

    @property
    def tick_ns(self) -> int:
        """The time for which the limits were applied."""
        return self.stamp["tick_ns"]

    @property
    def sent_ns(self) -> int:
        """When it left the control loop."""
        return self.stamp.get("sent_ns") or self.tick_ns

    @property
    def is_held(self) -> bool:
        """Whether the command was made by the hold, and not from a chunk."""
        return bool(self.stamp.get("flags", 0) & HELD)


@dataclass(frozen=True, kw_only=True)
class ArmLog:
    """What an arm wrote down."""

    commands: list[Command]
    positions: list[tuple[int, Vector]]
    events: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> ArmLog:
        """Reads log.jsonl; a last line that was cut off is left out."""
        lines = path.read_text().split("\n")[:-1]
        entries = [json.loads(line) for line in lines]
        commands = [_command(entry) for entry in entries if entry["what"] == "command"]
        positions = [
            (entry["t"], np.array(entry["measured"]))
            for entry in entries
            if entry["what"] == "position"
        ]
        others = [entry for entry in entries if entry["what"] not in ("command", "position")]
        return cls(commands=commands, positions=positions, events=others)

    def times(self, what: str) -> list[int]:
        """When something happened, by the arm's clock in nanoseconds."""
        return [event["t"] for event in self.events if event["what"] == what]

    def first(self, what: str) -> int:
        """When something happened first."""
        found = self.times(what)
        assert found, f"the arm has no {what!r} in its log"
        return found[0]


def _command(entry: dict[str, Any]) -> Command:
    return Command(
        arrived_ns=entry["t"],
        values=np.array(entry["command"], np.float64),
        measured=np.array(entry["measured"], np.float64),
        stamp=entry["stamp"],
        is_stopped=entry["is_stopped"],
        is_known=entry["is_known"],
    )


@dataclass(kw_only=True)
class _Motion:
    """The motion of the commands so far, as the limits see it."""

    position: Vector
    velocity: Vector
    acceleration: Vector
    jerk: Vector
    tick_ns: int
    dts_s: list[float] = field(default_factory=list[float])
    roundings: list[Vector] = field(default_factory=list[Vector])


def judge(log: ArmLog, limits: Limits, max_age_s: float | None = None) -> list[str]:
    """Returns every violation as a sentence; an empty list is a good mark.

    Args:
        log: what the arm received.
        limits: the limits that were promised.
        max_age_s: the printed bound of an observation's age; None leaves it out.
    """
    return [f"command {index}: {text}" for index, text in _violations(log, limits, max_age_s)]


def _violations(log: ArmLog, limits: Limits, max_age_s: float | None) -> Iterator[tuple[int, str]]:
    motion: _Motion | None = None
    before: Command | None = None
    for index, command in enumerate(log.commands):
        if command.is_stopped:
            # One that was on its way to the arm may arrive later.
            if command.sent_ns >= log.times("stop")[0]:
                yield index, "was sent after the stop"
            continue
        if not np.isfinite(command.values).all():
            yield index, f"is not finite: {command.values.tolist()}"
            motion = None
            before = command
            continue
        for text in _outside(command, limits):
            yield index, text
        for text in _order(before, command):
            yield index, text
        for text in _age(command, max_age_s):
            yield index, text
        for text in _received(log, before, command, limits):
            yield index, text
        for text in _between(log, before, command):
            yield index, text
        motion, texts = _moved(log, motion, before, command, limits)
        for text in texts:
            yield index, text
        before = command


def _outside(command: Command, limits: Limits) -> Iterator[str]:
    for joint, (value, low, high) in enumerate(
        zip(command.values, limits.lower, limits.upper, strict=True)
    ):
        # The limits are stated in decimals, commands are float32.
        rounding = np.spacing(np.float32(max(abs(low), abs(high)))) / 2
        if not low - rounding <= value <= high + rounding:
            yield f"joint {joint} is outside its limits: {value} is not in [{low}, {high}]"


def _order(before: Command | None, command: Command) -> Iterator[str]:
    if before is None or _session(before) != _session(command):
        return
    if command.tick_ns <= before.tick_ns:
        yield f"is not later than the one before: {command.tick_ns} after {before.tick_ns} ns"
    sequence = command.stamp.get("sequence", 0), before.stamp.get("sequence", 0)
    if all(sequence) and sequence[0] <= sequence[1]:
        yield f"has sequence {sequence[0]} after {sequence[1]}"


def _session(command: Command) -> int:
    return command.stamp.get("session", 0)


def _between(log: ArmLog, before: Command | None, command: Command) -> Iterator[str]:
    """However long it takes from one session to the next, nothing moves the arm meanwhile."""
    if before is None or _session(before) == _session(command):
        return
    first_ns, last_ns = before.arrived_ns + SETTLING_NS, command.arrived_ns
    speeds = [speed for at_ns, speed in _speeds(log) if first_ns < at_ns <= last_ns]
    if (fastest := max(speeds, default=0.0)) > SPEED_AT_REST:
        yield f"follows on a motion of {fastest:.3f} per second between two sessions"


def _age(command: Command, max_age_s: float | None) -> Iterator[str]:
    observed_ns = command.stamp.get("observed_ns", 0)
    if max_age_s is None or command.is_held:
        return
    age_s = (command.tick_ns - observed_ns) * 1e-9
    if not observed_ns:
        yield "names no observation, and is not flagged as held"
    elif age_s > max_age_s:
        yield f"was made from an observation {age_s:.3f} s old; the bound is {max_age_s:.3f} s"
    elif not command.is_known:
        yield "names an observation that the arm never gave"


def _received(
    log: ArmLog, before: Command | None, command: Command, limits: Limits
) -> Iterator[str]:
    """A step of what was received: from the command before, or from where the arm stands."""
    largest = 3 * np.asarray(limits.max_velocity) * limits.period_s
    last = None if before is None or not np.isfinite(before.values).all() else before.values
    starts = list(_standing(log, command)) if last is None else [last]
    if before is not None and _may_be_new_start(before, command, limits):
        starts += list(_standing(log, command))
    # The smallest step in units of the largest one: commands may start where the arm stands.
    share = min(float(np.max(np.abs(command.values - start) / largest)) for start in starts)
    if share > 1 + 1e-5:
        yield f"is a step of {3 * share:.2f} nominal ones from the one received before"


def _is_new_start(before: Command, command: Command, limits: Limits) -> bool:
    longest = LONGEST_GAP * (1 + _missing(before, command))
    return _is_gap(before, command, longest, limits) or _session(before) != _session(command)


def _may_be_new_start(before: Command, command: Command, limits: Limits) -> bool:
    """Whether the loop may have had a gap, as far as is known without the missing commands."""
    return _is_gap(before, command, LONGEST_GAP, limits) or _session(before) != _session(command)


def _is_gap(before: Command, command: Command, periods: int, limits: Limits) -> bool:
    """Whether more than some periods lie between two commands, to the nanosecond."""
    return command.tick_ns - before.tick_ns > round(periods * limits.period_s * 1e9)


def _standing(log: ArmLog, command: Command) -> Iterator[Vector]:
    """Where the arm was measured shortly before a command."""
    yield command.measured
    for at_ns, position in log.positions:
        if -300_000_000 < at_ns - command.arrived_ns <= 0:
            yield position


def _moved(
    log: ArmLog,
    motion: _Motion | None,
    before: Command | None,
    command: Command,
    limits: Limits,
) -> tuple[_Motion, list[str]]:
    """Follows the motion by one command; returns it and what was violated."""
    if motion is None or before is None or _is_new_start(before, command, limits):
        starts = [_at_rest(position, command, limits) for position in _standing(log, command)]
    else:
        starts = [motion]
        if _may_be_new_start(before, command, limits):
            starts += [_at_rest(position, command, limits) for position in _standing(log, command)]
    if before is None or _session(before) != _session(command):
        # The first command of a session has number 1.
        is_complete = command.stamp.get("sequence", 1) == 1
        starts = [replace(start, tick_ns=_begin_ns(start, command, limits)) for start in starts]
    else:
        is_complete = _missing(before, command) == 0
    # From a standing arm the start is known only as far as the measurements tell.
    steps = [_step(start, command, limits, is_complete=is_complete) for start in starts]
    return min(steps, key=lambda step: len(step[1]))


def _at_rest(position: Vector, command: Command, limits: Limits) -> _Motion:
    none = np.zeros_like(position)
    # The measurement that the loop began from lies within what the servo moved meanwhile.
    return _Motion(
        position=position,
        velocity=none,
        acceleration=none,
        jerk=none,
        tick_ns=command.tick_ns - round(limits.period_s * 1e9),
        roundings=[np.full_like(position, START_ERROR)] * 3,
    )


def _begin_ns(start: _Motion, command: Command, limits: Limits) -> int:
    """When the motion of a session began, if its first commands did not arrive."""
    missing = max(command.stamp.get("sequence", 1), 1) - 1
    return start.tick_ns - round(missing * limits.period_s * 1e9)


def _missing(before: Command, command: Command) -> int:
    """How many commands of a session did not arrive between two that did."""
    numbers = before.stamp.get("sequence", 0), command.stamp.get("sequence", 0)
    if not all(numbers) or _session(before) != _session(command):
        return 0
    return numbers[1] - numbers[0] - 1


def _step(
    start: _Motion, command: Command, limits: Limits, *, is_complete: bool
) -> tuple[_Motion, list[str]]:
    since_s = max((command.tick_ns - start.tick_ns) * 1e-9, 1e-9)
    dt = min(since_s, limits.period_s) if is_complete else since_s
    shortest = min(dt, *start.dts_s, limits.period_s)
    rounding = np.spacing(np.abs(command.values).astype(np.float32)).astype(np.float64) / 2
    velocity = (command.values - start.position) / dt
    unknown = 0.0 if is_complete else np.nan
    acceleration = (velocity - start.velocity) / dt + unknown
    jerk = (acceleration - start.acceleration) / dt
    # Commands are rounded to float32; each difference adds the roundings of its commands.
    errors = [rounding, *start.roundings][:4]
    errors += [errors[-1]] * (4 - len(errors))
    slack_v = (errors[0] + errors[1]) / shortest
    slack_a = (errors[0] + 2 * errors[1] + errors[2]) / shortest**2
    slack_j = (errors[0] + 3 * errors[1] + 3 * errors[2] + errors[3]) / shortest**3
    texts = []
    for name, found, most, slack in (
        ("velocity", velocity, limits.max_velocity, slack_v),
        ("acceleration", acceleration, limits.max_acceleration, slack_a),
        ("jerk", jerk, limits.max_jerk, slack_j),
    ):
        excess = np.abs(found) - np.asarray(most) * (1 + 1e-5) - slack
        if (excess > 0).any():
            joint = int(np.argmax(excess))
            texts.append(f"joint {joint}: {name} {found[joint]:.4f}, the limit is {most[joint]}")
    moved = _Motion(
        position=command.values,
        # What came before the missing commands says nothing of the motion after them.
        velocity=velocity if is_complete else np.full_like(velocity, np.nan),
        acceleration=acceleration if is_complete else np.full_like(velocity, np.nan),
        jerk=jerk,
        tick_ns=command.tick_ns,
        dts_s=[dt, *start.dts_s[:1]],
        roundings=errors[:3],
    )
    return moved, texts


def largest_gap_s(log: ArmLog) -> float:
    """The largest time between two commands of a session, by the arm's clock."""
    return _largest_gap_s(log, lambda command: command.arrived_ns)


def largest_stamped_gap_s(log: ArmLog) -> float:
    """The largest time between two commands of a session, by the stamps sent with them."""
    return _largest_gap_s(log, lambda command: command.tick_ns)


def _largest_gap_s(log: ArmLog, time_ns: Callable[[Command], int]) -> float:
    gaps_ns = (
        time_ns(command) - time_ns(before)
        for before, command in pairwise(log.commands)
        if _session(before) == _session(command)
    )
    return max(gaps_ns, default=0) * 1e-9


def time_to_rest_s(log: ArmLog, since_ns: int) -> float:
    """How long after a moment the arm's joints last moved faster than at rest."""
    fast_ns = (at for at, speed in _speeds(log) if at > since_ns and speed > SPEED_AT_REST)
    return (max(fast_ns, default=since_ns) - since_ns) * 1e-9


def _speeds(log: ArmLog) -> Iterator[tuple[int, float]]:
    """The speed of the fastest joint, and when it was measured."""
    for (before_ns, before), (at_ns, position) in pairwise(log.positions):
        speed = np.abs(position - before) / max((at_ns - before_ns) * 1e-9, 1e-3)
        yield at_ns, float(np.max(speed))


def worst(log: ArmLog, limits: Limits) -> dict[str, float]:
    """The largest share of each limit that a command took, for the table of measured figures.

    Across commands that did not arrive, the velocity is that over the whole time.
    """
    shares = dict.fromkeys(("position", "velocity", "acceleration", "jerk", "received step"), 0.0)
    middle = (np.asarray(limits.upper) + limits.lower) / 2
    half = (np.asarray(limits.upper) - limits.lower) / 2
    for command in log.commands:
        share = np.max(np.abs(command.values - middle) / half)
        shares["position"] = max(shares["position"], float(share))
    for before, command in zip(log.commands, log.commands[1:], strict=False):
        step = np.abs(command.values - before.values) / np.asarray(limits.max_velocity)
        longest_s = limits.period_s * (1 + _missing(before, command))
        dt_s = min(max((command.tick_ns - before.tick_ns) * 1e-9, 1e-9), longest_s)
        shares["velocity"] = max(shares["velocity"], float(np.max(step)) / dt_s)
        received = float(np.max(step)) / limits.period_s
        shares["received step"] = max(shares["received step"], received)
    motion: _Motion | None = None
    last: Command | None = None
    for command in log.commands:
        motion, _ = _moved(log, motion, last, command, limits)
        last = command
        for name, found, most in (
            ("acceleration", motion.acceleration, limits.max_acceleration),
            ("jerk", motion.jerk, limits.max_jerk),
        ):
            share = float(np.max(np.nan_to_num(np.abs(found)) / np.asarray(most)))
            shares[name] = max(shares[name], share)
    return shares
