"""The command-line arguments of a run in real time."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from flux_core.errors import UsageError
from flux_core.robots import RateTightening, Tightening

from .options import (
    DEFAULT_FRAME_AGE_S,
    DEFAULT_HOLD_FOR_S,
    DEFAULT_PRIORITY,
    DEFAULT_RETRIES,
    RealtimeOptions,
)

_MOST_PRIORITY = 99
_LONGEST_S = 60.0
_MOST_COMMANDS_HZ = 2000.0
_LEAST_SPEED = 0.05


def add_realtime_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `realtime_options_from` reads."""
    real = parser.add_argument_group("real robots, and simulated ones with --realtime")
    add = real.add_argument
    add(
        "--driver-python",
        type=Path,
        metavar="PATH",
        help="the Python that runs the robot's driver, which may have an environment of its own "
        "(default: the one that runs flux)",
    )
    add(
        "--stop-category",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="how the robot is stopped (IEC 60204-1). 0: power off at once; 1: controlled stop, "
        "then power off; 2: controlled stop, power on. 0 and 1 need a robot with brakes "
        "(default: 2)",
    )
    add(
        "--return-to-limits",
        action="store_true",
        help="confirm that a robot which stands slightly outside its limits is moved back slowly "
        "before the run",
    )
    add(
        "--max-retries",
        type=retries,
        default=DEFAULT_RETRIES,
        metavar="N",
        help="failures in a row, of the driver or of inference, before a stop "
        f"(default: {DEFAULT_RETRIES})",
    )
    add(
        "--dead-man",
        metavar="DEVICE[:CODE]",
        help="a button that must be held while a real robot moves, of a joystick or a pedal, such "
        "as /dev/input/event5:BTN_TRIGGER; released or unplugged, it pauses the run (needs evdev; "
        "default without CODE: any button of the device)",
    )
    add(
        "--prepare",
        action="store_true",
        help="move a real robot slowly to its prepare pose before the first episode",
    )
    _add_rates(real)
    _add_times(real)
    _add_limits(parser.add_argument_group("limits of this run, which may only be tightened"))
    _add_scheduling(real)


def _add_rates(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--command-hz",
        type=command_hz,
        metavar="N",
        help="commands per second, at least the robot's control rate: those between two steps of "
        "a chunk lie on a cubic curve through the steps, within the same limits (default: the "
        "control rate)",
    )
    add(
        "--speed",
        type=speed,
        default=1.0,
        metavar="S",
        help=f"share of its speed at which the policy's motion is executed, {_LEAST_SPEED:g} to 1, "
        "such as 0.2 for a first run on a new robot; the robot's own speed scaling does the same. "
        "Also for simulated robots (default: 1)",
    )


def _add_times(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--hold-for",
        type=seconds,
        default=DEFAULT_HOLD_FOR_S,
        metavar="SECONDS",
        dest="hold_for_s",
        help=f"a hold that lasts longer becomes a stop (default: {DEFAULT_HOLD_FOR_S:g})",
    )
    add(
        "--max-state-age",
        type=seconds,
        metavar="SECONDS",
        dest="max_state_age_s",
        help="hold while the robot's newest state is older (default: 0.1, or five control periods "
        "if that is longer)",
    )
    add(
        "--max-frame-age",
        type=seconds,
        default=DEFAULT_FRAME_AGE_S,
        metavar="SECONDS",
        dest="max_frame_age_s",
        help=f"hold while the newest frame of a camera is older (default: {DEFAULT_FRAME_AGE_S:g})",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    for option, unit in (("velocity", "s"), ("acceleration", "s^2"), ("jerk", "s^3")):
        add(
            f"--max-{option}",
            nargs="+",
            action="extend",
            default=[],
            metavar="P%|JOINT=VALUE",  # argparse formats the help text only
            help=f"largest {option}: P%% of every joint's limit, or VALUE of one joint, in its "
            f"unit per {unit}",
        )
    add(
        "--limit",
        nargs="+",
        action="extend",
        default=[],
        metavar="JOINT=LOWER:UPPER",
        dest="limits",
        help="smallest and largest command of a joint, in its unit",
    )


def _add_scheduling(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--priority",
        type=priority,
        default=DEFAULT_PRIORITY,
        metavar="N",
        help="priority of the control thread under SCHED_FIFO, 1 to 99; 0 for ordinary scheduling "
        f"(default: {DEFAULT_PRIORITY}, where this machine permits it; see flux-runtime doctor)",
    )
    add(
        "--cpu",
        type=cpu,
        metavar="N",
        help="the only CPU that the control thread runs on (default: any)",
    )


def realtime_options_from(args: argparse.Namespace) -> RealtimeOptions:
    """Returns what the options ask for.

    Raises:
        UsageError: a limit is not of the form that its option has.
    """
    return RealtimeOptions(
        driver_python=args.driver_python,
        hold_for_s=args.hold_for_s,
        max_state_age_s=args.max_state_age_s,
        max_frame_age_s=args.max_frame_age_s,
        stop_category=args.stop_category,
        return_to_limits=args.return_to_limits,
        tightening=Tightening(
            position=_positions(args.limits),
            max_velocity=_rate("--max-velocity", args.max_velocity),
            max_acceleration=_rate("--max-acceleration", args.max_acceleration),
            max_jerk=_rate("--max-jerk", args.max_jerk),
        ),
        priority=args.priority,
        cpu=args.cpu,
        max_retries=args.max_retries,
        command_hz=args.command_hz,
        speed=args.speed,
        dead_man=args.dead_man,
        prepare=args.prepare,
    )


def _rate(option: str, texts: Sequence[str]) -> RateTightening:
    """Reads '50%' and 'elbow=0.5'; a number alone could be either, and is refused."""
    share, joints = 1.0, dict[str, float]()
    for text in texts:
        joint, is_pair, number = text.rpartition("=")
        try:
            if is_pair and joint:
                joints[joint] = min(_number(number), joints.get(joint, math.inf))
                continue
            percent = _number(text.removesuffix("%"))
            if not text.endswith("%"):
                raise ValueError(text)
        except ValueError as error:
            raise UsageError(
                f"{option}: expected P%, such as 50%, or JOINT=VALUE, such as elbow=0.5, got "
                f"{text!r}"
            ) from error
        if not 0 < percent <= 100:
            raise UsageError(
                f"{option}: expected above 0% and at most 100% of the limits in force, got "
                f"{text}. Options may tighten limits, never widen them"
            )
        share = min(share, percent / 100)
    return RateTightening(share=share, joints=joints)


def _positions(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        joint, _, limits = text.rpartition("=")
        low, _, high = limits.partition(":")
        try:
            lower, upper = _number(low), _number(high)
            if not joint:
                raise ValueError(text)
        except ValueError as error:
            raise UsageError(
                f"--limit: expected JOINT=LOWER:UPPER, such as elbow=-1.5:1.5, got {text!r}"
            ) from error
        before = found.get(joint, (-math.inf, math.inf))
        found[joint] = (max(lower, before[0]), min(upper, before[1]))
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def seconds(text: str) -> float:
    """Parses a duration."""
    value = float(text)
    if not 0 < value <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected above 0 and at most {_LONGEST_S:g}, got {text}")
    return value


def command_hz(text: str) -> float:
    """Parses a rate of commands."""
    value = float(text)
    if not 0 < value <= _MOST_COMMANDS_HZ:
        raise argparse.ArgumentTypeError(
            f"expected above 0 and at most {_MOST_COMMANDS_HZ:g}, got {text}"
        )
    return value


def speed(text: str) -> float:
    """Parses a share of the speed."""
    value = float(text)
    if not _LEAST_SPEED <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"expected {_LEAST_SPEED:g} to 1, such as 0.5 for half the speed, got {text}"
        )
    return value


def retries(text: str) -> int:
    """Parses a number of retries."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {value}")
    return value


def priority(text: str) -> int:
    """Parses a priority of SCHED_FIFO, or 0."""
    value = int(text)
    if not 0 <= value <= _MOST_PRIORITY:
        raise argparse.ArgumentTypeError(f"expected 0 to {_MOST_PRIORITY}, got {value}")
    return value


def cpu(text: str) -> int:
    """Parses the number of a CPU that this process may use."""
    value = int(text)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {value}
    if value not in usable:
        have = ", ".join(map(str, sorted(usable)))
        raise argparse.ArgumentTypeError(f"expected one of the CPUs {have}, got {text}")
    return value
