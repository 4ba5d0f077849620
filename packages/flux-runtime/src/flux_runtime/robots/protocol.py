"""What the runtime needs from a robot: a real one, and a simulated one.

A real robot is driven in real time, from a process of its own (`flux_driver`), which calls
`read_state`, `read_frames` and `send` each on a thread of its own. A simulated robot is stepped by
its commands, on simulated time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec
from flux_core.types import Observation


class Robot(Protocol):
    """A real robot. `connect` is called first and `close` last; `close` may be called at any time.

    All times are seconds on `time.monotonic()`. A call that raises is tried again; after several
    failures in a row the robot is stopped. No call has to be fast: one that hangs delays nothing
    but itself, and what it should have delivered is treated as old.

    Optional parts: `connect_timeout_s` (default 30) and `home_timeout_s` (default 60), the seconds
    that `connect` and `home` may take; `home()`, which moves the robot to its home pose;
    `send_stamped(command, stamp)`, which replaces `send` and also gets the command's
    `flux_driver.commands.CommandStamp`; and `speed_scaling()`, the share of its commanded speed, 0
    to 1, at which the robot moves by its own decision, such as after a speed slider: it is called
    after each `read_state`, and chunks are executed so much more slowly. Not for a robot that is
    commanded by differences.
    """

    @property
    def spec(self) -> RobotSpec | Mapping[str, object]:
        """Names, limits, cameras and control rate, or a dict of a RobotSpec's fields. Known before
        `connect`."""
        ...

    def connect(self) -> None:
        """Makes the robot ready, or raises. Is not called on the main thread."""
        ...

    def read_state(self) -> tuple[NDArray[np.float32], float]:
        """Returns the newest state, (state_dim,) float32 in the spec's units, and the time when
        it was measured. May wait for a new one."""
        ...

    def read_frames(self, cameras: Sequence[str]) -> Mapping[str, tuple[NDArray[np.uint8], float]]:
        """Returns the newest image of each camera, (height, width, 3) uint8 RGB, and the time when
        it was captured. A camera without a new image may be left out. The size must not change.
        """
        ...

    def send(self, command: NDArray[np.float32], time_s: float) -> None:
        """Sends a command, (action_dim,) float32, that was made for `time_s`."""
        ...

    def stop(self, category: int) -> None:
        """Stops the robot (stop categories of IEC 60204-1): 0 removes its power at once, 1 stops it
        and then removes the power, 2 stops it and keeps the power. Must return within 1 s, also
        while another call hangs."""
        ...

    def close(self) -> None:
        """Releases everything the robot holds, within 5 s. Leaves the torque on."""
        ...


@runtime_checkable
class SimulatedRobot(Protocol):
    """A robot that stands still between two commands, each of which is one control step. It can be
    reset, and knows the progress of its task; `stages` is empty for one that does not. See
    `EndingRobot` for an optional part.

    Attributes:
        task: its task in words.
        success_stage: the key of `stages()` that counts as success; once true, it stays true.
        end_state: the key of `stages()` that must still hold at the end for strict success.
    """

    task: str
    success_stage: str
    end_state: str

    @property
    def spec(self) -> RobotSpec:
        """Names, limits, cameras and control rate. Known before `connect`."""
        ...

    def connect(self) -> None:
        """Makes the robot ready, or raises a RobotError or MissingDependencyError."""
        ...

    def state(self) -> NDArray[np.float32]:
        """Returns the state, (state_dim,) float32 in the spec's units, without taking pictures."""
        ...

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Returns the state and one picture from each of `cameras`, a subset of the spec's."""
        ...

    def command(self, action: NDArray[np.float32]) -> None:
        """Sends a command, (action_dim,) float32, for the next control step."""
        ...

    def reset(self, seed: int) -> None:
        """Starts a new episode; the same seed gives the same start."""
        ...

    def stages(self) -> Mapping[str, bool]:
        """Returns which stages of the task have been reached."""
        ...

    def render(self, cameras: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Returns (height, width, 3) uint8 RGB pictures of some cameras."""
        ...

    def close(self) -> None:
        """Releases everything the robot holds."""
        ...


@runtime_checkable
class EndingRobot(Protocol):
    """An optional part of a `SimulatedRobot`: one whose episodes end by themselves."""

    @property
    def is_over(self) -> bool:
        """Whether the episode has ended."""
        ...
