"""Drives any robot of LeRobot's: SO-100, SO-101, Koch and others, and those of plugins.

The states come from the robot's `get_observation`, the commands go to its `send_action`, and the
images come from LeRobot's own camera classes. Nothing here asks anybody anything: a robot that is
not calibrated is refused, and its calibration is LeRobot's business.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator, Mapping, Sequence, Tuple

import numpy as np

from ..events import DriverWarnings
from ..robot import DriverError, one_line
from .arms import (
    POSITION,
    MotorBusError,
    arms_of,
    check_motors,
    forget_answers,
    hold_when_enabled,
    require_calibration,
    settle,
    silent_motors,
)
from .description import Description, listed
from .feeds import Feeds, take_cameras
from .registry import make_robot
from .settings import OPTION, OWN_KEY, RELATIVE_TARGET, TORQUE_OFF, decoded, split, states_torque

BUS_TIMEOUT_S = 0.5
CAMERAS_TIMEOUT_S = 15.0
ASK_AGAIN_S = 1.0
CONNECT_TRIES = 5
CLIPPED = 1e-3
"""How far what LeRobot has sent may differ from the command, for rounding, in the joint's unit."""
MISREAD = 1.5
"""How far from the newest state a goal may be, in `max_relative_target`s."""

Pair = Tuple[Any, float]


class LeRobotDriver:
    """One robot of LeRobot's.

    Args:
        robot_type: the type, as in LeRobot's `--robot.type`.
        config: the contents of `--robot-config`: LeRobot's keys, and `flux` with ours.
        control_hz: commands per second, if the file does not say.

    Attributes:
        spec: the fields of its RobotSpec; known before it is connected.

    Raises:
        DriverError: there is no such robot, the config does not fit it, or it is not calibrated.
    """

    connect_timeout_s = 40.0

    def __init__(
        self,
        robot_type: str,
        config: Mapping[str, Any] | None = None,
        control_hz: float | None = None,
    ) -> None:
        theirs, ours = split(config or {}, robot_type)
        self._kind = robot_type
        self._keeps_torque = not states_torque(theirs)
        self._robot = make_robot(decoded(robot_type, theirs))
        self._joints, images = _features(self._robot, robot_type)
        self._arms = arms_of(self._robot, self._joints)
        require_calibration(self._arms, robot_type)
        for arm in self._arms:
            hold_when_enabled(arm)
        described = Description(
            kind=robot_type,
            joints=self._joints,
            cameras=images,
            arms=self._arms,
            ours=ours,
            control_hz=control_hz,
        )
        self.spec = described.spec
        self._reach = described.reach
        self._feeds = Feeds(self._taken_cameras())
        self._seen: dict[str, Pair] = {}  # images that come with the state
        self._bus = threading.Lock()
        self._last: Any = None
        self._asked_s = 0.0
        self._silent = ""
        self._warnings = DriverWarnings()
        notes = (*described.notes, *self._torque_notes(), *self._limit_targets(described))
        for note in dict.fromkeys(notes):  # two arms may have the same to say
            print(f"lerobot:{robot_type}: {note}", file=sys.stderr)

    # What flux calls.

    def connect(self) -> None:
        """Checks the motors and their calibration, connects the robot and then its cameras."""
        for tries_left in reversed(range(CONNECT_TRIES)):
            try:
                self._connect_arm()
                break
            except MotorBusError as error:  # one answer that is lost ends LeRobot's connect()
                if not tries_left:
                    raise
                print(f"lerobot:{self._kind}: {error}. Connecting again", file=sys.stderr)
        if not self._robot.is_calibrated:
            raise DriverError(
                f"{self._kind}: expected a calibrated robot, got one that says it is not. "
                f"Calibrate it first: lerobot-calibrate --robot.type={self._kind}"
            )
        self._feeds.start(CAMERAS_TIMEOUT_S)

    def _connect_arm(self) -> None:
        for arm in self._arms:
            check_motors(arm, self._kind)
        try:
            self._robot.connect(calibrate=False)
        except EOFError as error:
            raise DriverError(
                f"{self._kind}: asks a question while it connects, and nobody can answer. "
                f"Calibrate it first: lerobot-calibrate --robot.type={self._kind}"
            ) from error
        except Exception as error:
            text = self._fault(error)
            self._disconnect_arms()
            if self._silent or not self._arms:
                raise DriverError(text) from error
            raise MotorBusError(text) from error

    def read_state(self) -> Pair:
        """Returns the positions, (state_dim,) float64, and the time before they were asked for."""
        with self._bus_for("read_state"):
            asked_s = time.monotonic()
            observation = self._observation()
        for name, value in observation.items():
            if isinstance(value, np.ndarray) and value.ndim == 3:
                self._seen[name] = (value, asked_s)
        state = np.array([float(observation[joint]) for joint in self._joints])
        self._last = state
        return state, asked_s

    def read_frames(self, cameras: Sequence[str]) -> dict[str, Pair]:
        """Returns the newest image of each camera; never waits."""
        seen = {name: self._seen[name] for name in cameras if name in self._seen}
        return {**seen, **self._feeds.read(cameras)}

    def send(self, command: Any, time_s: float) -> None:
        """Passes a command, (action_dim,) float32, on to the robot's `send_action`."""
        asked = {joint: float(value) for joint, value in zip(self._joints, command)}
        with self._bus_for("send"):
            try:
                sent = self._robot.send_action(asked)
            except Exception as error:
                raise DriverError(self._fault(error)) from error
            self._check_sent(asked, sent if isinstance(sent, Mapping) else asked)

    def stop(self, category: int) -> None:
        """Has the robot hold the pose that it is in; the torque stays on, whatever `category`."""
        with self._bus_for("stop"):
            try:
                here = self._positions(self._observation())
            except DriverError:
                if self._last is None:
                    raise
                here = dict(zip(self._joints, self._last.tolist()))
            try:
                self._robot.send_action(here)
            except Exception as error:  # noqa: BLE001 - the motors that still answer must hold
                self._hold_without_answer(here, error)

    def close(self) -> None:
        """Ends the cameras and closes the connection. The torque stays on unless the user has
        asked for the contrary in the file."""
        self._feeds.close()
        with self._bus_for("close"):
            if self._robot.is_connected:
                self._robot.disconnect()
                return
            self._disconnect_arms()

    def take_warnings(self) -> list[tuple[str, str]]:
        """Returns what has happened since the last call that is no failure: (name, line)."""
        return self._warnings.take()

    # What is done for them.

    def _disconnect_arms(self) -> None:
        for arm in self._arms:
            if arm.bus.is_connected:
                arm.bus.disconnect(getattr(arm.robot.config, TORQUE_OFF, False))

    @contextmanager
    def _bus_for(self, call: str) -> Iterator[None]:
        """One call at a time uses the bus; none waits for another that hangs."""
        if not self._bus.acquire(timeout=BUS_TIMEOUT_S):
            raise DriverError(f"{call}: the bus has been busy for {BUS_TIMEOUT_S:g} s")
        try:
            for arm in self._arms:
                forget_answers(arm)
            yield
        finally:
            self._bus.release()

    def _observation(self) -> dict[str, Any]:
        try:
            return self._robot.get_observation()
        except Exception as error:
            raise DriverError(self._fault(error)) from error

    def _positions(self, observation: Mapping[str, Any]) -> dict[str, float]:
        return {joint: float(observation[joint]) for joint in self._joints}

    def _hold_without_answer(self, here: Mapping[str, float], error: Exception) -> None:
        """Writes the goals without asking for an answer, because one motor no longer gives one."""
        if not self._arms:
            raise DriverError(self._fault(error)) from error
        self._write_goals(here)
        line = f"stop: the last measured pose is held, because {self._fault(error)}"
        self._warnings.add("hold_last_pose", line)

    def _fault(self, error: BaseException) -> str:
        """Returns what is wrong, with the names of the motors that do not answer. While some do
        not, they are asked once per second, because each question costs the bus some time."""
        now_s = time.monotonic()
        if not self._silent or now_s - self._asked_s >= ASK_AGAIN_S:
            self._asked_s = now_s
            self._silent = "; ".join(filter(None, map(silent_motors, self._arms)))
        else:
            for arm in self._arms:
                settle(arm)
        return self._silent or one_line(error)

    def _check_sent(self, asked: Mapping[str, float], sent: Mapping[str, float]) -> None:
        """Reports what LeRobot has clipped, and takes it back if it lies where the arm is not.

        LeRobot clips around a position that it reads again. Should that reading be wrong, so is
        the goal.
        """
        for joint, measured, reach in zip(self._joints, self._last_or(asked), self._reach):
            got = float(sent.get(joint, asked[joint]))
            if abs(got - asked[joint]) <= CLIPPED:
                continue
            text = f"{joint}: LeRobot has sent {got:.4g} in place of {asked[joint]:.4g}"
            if abs(got - measured) > MISREAD * reach:
                self._write_goals(asked)
                text += f" although the arm is at {measured:.4g}: sent again as it was"
                self._warnings.add("lerobot_misread", text)
                return
            text += f", because the arm is farther behind than {RELATIVE_TARGET} allows"
            self._warnings.add("lerobot_clipped", text)
            return

    def _last_or(self, positions: Mapping[str, float]) -> list[float]:
        return list(positions.values()) if self._last is None else self._last.tolist()

    def _write_goals(self, goals: Mapping[str, float]) -> None:
        """Writes goals to the motors without reading anything first."""
        for arm in self._arms:
            motors = {joint: arm.motor(joint) for joint in goals}
            arm.bus.sync_write(
                "Goal_Position", {motor: goals[joint] for joint, motor in motors.items() if motor}
            )

    def _taken_cameras(self) -> dict[str, Any]:
        taken = {}
        for arm in self._arms:
            if arm.robot is not self._robot:
                taken.update(take_cameras(arm.robot, arm.prefix))
        own = take_cameras(self._robot)
        taken.update({name: camera for name, camera in own.items() if name in self.spec["cameras"]})
        return {name: camera for name, camera in taken.items() if name in self.spec["cameras"]}

    def _torque_notes(self) -> list[str]:
        parts = [arm.robot for arm in self._arms] or [self._robot]
        known = [getattr(part.config, TORQUE_OFF, None) for part in parts]
        if None in known:
            return [f"has no {TORQUE_OFF}: see in its class what disconnect() does to the torque"]
        if any(known):
            return [f"{TORQUE_OFF}: True, as {OPTION} says: the arm goes limp when the run ends"]
        why = (
            "LeRobot's default would let the arm fall"
            if self._keeps_torque
            else f"as {OPTION} says"
        )
        return [f"{TORQUE_OFF}: False ({why}): the arm holds its last pose after the run"]

    def _limit_targets(self, described: Description) -> list[str]:
        """Sets `max_relative_target` where the user has not, and returns lines that say so."""
        notes = []
        for arm in self._arms or (None,):
            config = (arm.robot if arm is not None else self._robot).config
            if not hasattr(config, RELATIVE_TARGET):
                notes.append(f"has no {RELATIVE_TARGET}: LeRobot bounds no command of this robot")
                continue
            targets = described.relative_targets(arm)
            stated = getattr(config, RELATIVE_TARGET)
            if stated is None:
                setattr(config, RELATIVE_TARGET, targets)
                notes.append(
                    f"{RELATIVE_TARGET}: {listed(targets)}, because {OPTION} states none: what the "
                    f"safety filter lets through is not clipped"
                )
                continue
            if not isinstance(stated, Mapping):
                stated = float(stated)  # LeRobot refuses an int at the first command
                setattr(config, RELATIVE_TARGET, stated)
            notes += _clipping_notes(stated, targets)
        return notes


def _clipping_notes(stated: Any, targets: Mapping[str, float]) -> list[str]:
    """Returns a line if the user's targets are tighter than what the filter lets through."""
    by_motor: Mapping[str, float] = (
        stated if isinstance(stated, Mapping) else dict.fromkeys(targets, float(stated))
    )
    tight = {name: value for name, value in targets.items() if by_motor.get(name, value) < value}
    if not tight:
        return []
    values = listed({name: by_motor[name] for name in tight})
    return [
        f"{RELATIVE_TARGET}: {values} is less than the safety filter lets through "
        f"({listed(tight)}): LeRobot may clip commands. Lower {OWN_KEY}.max_velocity, or raise it"
    ]


def _features(robot: Any, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the joints and of the cameras, in the order of LeRobot's features.

    Raises:
        DriverError: the robot has actions that are no positions, or positions that nobody measures.
    """
    actions, observed = dict(robot.action_features), dict(robot.observation_features)
    for name in actions:
        if not name.endswith(POSITION):
            raise DriverError(
                f"{kind}: expected actions that are positions (NAME{POSITION}), got {name!r}. "
                f"A base or another part that is commanded by velocity cannot be driven; leave it "
                f"out in the robot's config if that has a key for it"
            )
        if name not in observed:
            raise DriverError(
                f"{kind}: expected a measured position of {name!r}, got none in its "
                f"observation_features"
            )
    images = [name for name, shape in observed.items() if _is_colour(shape)]
    return tuple(actions), tuple(images)


def _is_colour(shape: Any) -> bool:
    """Whether a feature is a colour image, (height, width, 3), and not depth or a number."""
    return isinstance(shape, (tuple, list)) and len(shape) == 3 and shape[-1] == 3
