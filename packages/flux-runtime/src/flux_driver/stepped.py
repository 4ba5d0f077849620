"""A simulated robot in real time: it is stepped by each command, and observed in between.

A simulator is used by one thread at a time. Commands go first: a picture begins only while no
command waits, and after a picture the camera rests for as long as the picture took. So rendering
that is slow costs frames and not commands.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Sequence

_ROUNDING = 1e-6
"""What is left of a step when shares of it have been added up; a period has whole nanoseconds."""


class Turns:
    """Lets one thread at a time use a simulator, commands before everything else."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._num_urgent = 0
        self._is_busy = False

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """The next turn."""
        with self._condition:
            self._num_urgent += 1
            self._condition.wait_for(lambda: not self._is_busy)
            self._num_urgent -= 1
            self._is_busy = True
        try:
            yield
        finally:
            self._free()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """A turn when nothing urgent waits."""
        with self._condition:
            self._condition.wait_for(lambda: not self._is_busy and not self._num_urgent)
            self._is_busy = True
        try:
            yield
        finally:
            self._free()

    def _free(self) -> None:
        with self._condition:
            self._is_busy = False
            self._condition.notify_all()


class SteppedRobot:
    """Gives a simulated robot the protocol of a real one.

    Attributes:
        spec: the simulated robot's.
    """

    def __init__(self, robot: Any) -> None:
        self._robot = robot
        self._turns = Turns()
        self._stages: dict[str, bool] = {}
        self.spec = robot.spec
        self._steps_per_command = 1.0
        self._due_steps = 0.0
        if callable(getattr(robot, "speed_scaling", None)):
            self.speed_scaling = robot.speed_scaling

    def expect_commands(self, period_s: float) -> None:
        """Expects a command every `period_s`, at most one control step."""
        self._steps_per_command = min(period_s * self._control_hz(), 1.0)

    def _control_hz(self) -> float:
        spec = self.spec
        return float(spec["control_hz"] if isinstance(spec, Mapping) else spec.control_hz)

    def connect(self) -> None:
        """Builds the simulation and starts an episode, so that there is a state."""
        with self._turns.urgent():
            self._robot.connect()
            self._robot.reset(0)
            self._stages = dict(self._robot.stages())

    def reset(self, seed: int) -> None:
        """Starts a new episode."""
        with self._turns.urgent():
            self._robot.reset(seed)
            self._stages = dict(self._robot.stages())
            self._due_steps = 0.0

    @property
    def stages(self) -> Mapping[str, bool]:
        """The stages after the newest command, in the robot's order."""
        return self._stages

    def read_state(self) -> tuple[Any, float]:
        """Returns the state now."""
        with self._turns.urgent():
            return self._robot.state(), time.monotonic()

    def read_frames(self, cameras: Sequence[str]) -> dict[str, tuple[Any, float]]:
        """Renders the cameras one after another, each with its own time."""
        frames = {}
        for name in cameras:
            with self._turns.patient():
                time_s = time.monotonic()
                frames[name] = (self._robot.observe("", [name]).images[name], time_s)
                took_s = time.monotonic() - time_s
            time.sleep(took_s)
        return frames

    def send(self, command: Any, time_s: float) -> None:
        """Advances the simulation by one control step, or, if there are more commands than steps,
        by none until the next step is due, which then takes the newest command."""
        with self._turns.urgent():
            self._due_steps += self._steps_per_command
            if self._due_steps < 1.0 - _ROUNDING:
                return
            self._due_steps = max(self._due_steps - 1.0, 0.0)
            self._robot.command(command)
            self._stages = dict(self._robot.stages())

    def stop(self, category: int) -> None:
        """Does nothing: simulated time stands still without commands."""

    def close(self) -> None:
        """Frees the simulation."""
        with self._turns.urgent():
            self._robot.close()


def progress_bits(stages: Mapping[str, bool]) -> int:
    """Returns the stages as bits, the first one lowest; those after the 32nd are left out."""
    return sum(1 << index for index, reached in enumerate(list(stages.values())[:32]) if reached)
