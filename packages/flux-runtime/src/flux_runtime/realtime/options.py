"""What a user may choose about a run in real time, apart from the policy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from flux_core.errors import UsageError
from flux_core.robots import RobotSpec, Tightening

StopCategory = Literal[0, 1, 2]
"""IEC 60204-1. 0: power removed at once; 1: controlled stop, then power removed; 2: controlled
stop, power kept."""
DEFAULT_HOLD_FOR_S = 2.0
DEFAULT_FRAME_AGE_S = 0.5
DEFAULT_PRIORITY = 50
DEFAULT_RETRIES = 5
STATE_AGE_S, STATE_AGE_PERIODS = 0.1, 5
LEAST_AGE_PERIODS = 2
"""A state that is taken once per period is one period old before the next arrives."""


@dataclass(frozen=True, kw_only=True)
class RealtimeOptions:
    """The options of `flux-runtime run` for a real robot, or a simulated one with `--realtime`.

    Attributes:
        driver_python: the interpreter of the driver's process; None for the one that runs flux.
        hold_for_s: a hold that lasts longer becomes a stop.
        max_state_age_s: the robot is held while its newest state is older; None for 0.1 s or five
            periods, whichever is longer.
        max_frame_age_s: the same for each camera's newest frame.
        stop_category: how the robot is stopped.
        return_to_limits: whether the operator confirms that a robot which stands slightly outside
            its limits is moved back slowly.
        tightening: limits that are tighter in this run.
        priority: of the control thread under SCHED_FIFO; 0 for ordinary scheduling.
        cpu: the CPU of the control thread; None for any.
        max_retries: failures in a row of the driver or of inference before a stop.
        command_hz: commands per second; None for one per control step.
        speed: the share of their speed at which chunks are executed. Also on simulated time.
        dead_man: the button that must be held while a real robot moves, as DEVICE[:CODE].
        prepare: whether a real robot is moved to its prepare pose before the run.
    """

    driver_python: Path | None = None
    hold_for_s: float = DEFAULT_HOLD_FOR_S
    max_state_age_s: float | None = None
    max_frame_age_s: float = DEFAULT_FRAME_AGE_S
    stop_category: StopCategory = 2
    return_to_limits: bool = False
    tightening: Tightening = field(default_factory=Tightening)
    priority: int = DEFAULT_PRIORITY
    cpu: int | None = None
    max_retries: int = DEFAULT_RETRIES
    command_hz: float | None = None
    speed: float = 1.0
    dead_man: str | None = None
    prepare: bool = False

    def commands_hz(self, spec: RobotSpec) -> float:
        """Returns the commands per second to this robot."""
        return spec.control_hz if self.command_hz is None else self.command_hz

    def state_age_s(self, control_hz: float) -> float:
        """Returns the largest age of a state, in seconds."""
        if self.max_state_age_s is not None:
            return self.max_state_age_s
        return max(STATE_AGE_S, STATE_AGE_PERIODS / control_hz)

    def check(self, spec: RobotSpec) -> None:
        """Refuses options that this robot does not allow.

        Raises:
            UsageError: the message begins with the option.
        """
        if self.stop_category != 2 and not spec.holds_without_power:
            raise UsageError(
                f"--stop-category: expected 2, because robot {spec.name} falls without power "
                f"(its driver's spec has holds_without_power=False), got {self.stop_category}"
            )
        self._check_rates(spec)
        least = LEAST_AGE_PERIODS / spec.control_hz
        ages = {"--max-state-age": self.max_state_age_s, "--max-frame-age": self.max_frame_age_s}
        for option, age in ages.items():
            if age is not None and not age >= least:
                raise UsageError(
                    f"{option}: expected at least {least:g} s, {LEAST_AGE_PERIODS} periods at "
                    f"{spec.control_hz:g} Hz, got {age:g} s"
                )

    def _check_rates(self, spec: RobotSpec) -> None:
        command_hz = self.commands_hz(spec)
        if command_hz < spec.control_hz:
            raise UsageError(
                f"--command-hz: expected at least {spec.control_hz:g}, the control rate of robot "
                f"{spec.name}, got {command_hz:g}"
            )
        check_speed(self.speed, spec)
        if spec.is_commanded_by_differences and command_hz != spec.control_hz:
            raise UsageError(
                f"--command-hz: expected {spec.control_hz:g}, because robot {spec.name} is "
                f"commanded by differences, and there is nothing between two of them, got "
                f"{command_hz:g}. Leave it out"
            )

    def check_unattended(self, robot: str) -> None:
        """Refuses options for the operator of a real robot.

        Raises:
            UsageError: the message names one.
        """
        given = {"--dead-man": self.dead_man is not None, "--prepare": self.prepare}
        for option, is_given in given.items():
            if is_given:
                raise UsageError(
                    f"{option}: expected a real robot, but {robot} is simulated. Leave it out"
                )

    def check_unused(self, robot: str) -> None:
        """Refuses options that have no effect on simulated time.

        Raises:
            UsageError: the message names them.
        """
        default = RealtimeOptions()
        names = [
            f"--{entry.name.removesuffix('_s').replace('_', '-')}"
            for entry in fields(self)
            if entry.name not in ("tightening", "speed")
            and getattr(self, entry.name) != getattr(default, entry.name)
        ]
        if names:
            raise UsageError(
                f"{', '.join(names)}: expected a robot in real time, but {robot} runs on simulated "
                f"time. Add --realtime, or leave {'it' if len(names) == 1 else 'them'} out"
            )


def check_speed(speed: float, spec: RobotSpec) -> None:
    """Refuses a speed at which this robot cannot execute chunks.

    Raises:
        UsageError: the robot is commanded by differences and the speed is not 1.
    """
    if spec.is_commanded_by_differences and speed != 1:
        raise UsageError(
            f"--speed: expected 1, because robot {spec.name} is commanded by differences, and part "
            f"of one is another motion, got {speed:g}. Leave it out"
        )
