"""Whether each joint does what it is told, while a robot begins to move.

A sign, exchanged arms and a wrong unit cannot be seen at rest if the robot stands in a symmetrical
pose, so the first motions are compared: the displacement of each joint's command since the start,
and its measured displacement. The arm may lag behind by up to `LONGEST_LAG_S`; the best lag counts.
Only joints whose command has moved far enough are judged, and no joint is judged twice.

What this cannot see: a joint that is inverted in the states as well as in the commands, since such
a robot seems to do what it is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec

from .finding import Finding, hard
from .pose import is_gripper, mirrored_dims

ENOUGH = {"rad": 0.05, "m": 0.01, "degrees": 3.0, "percent": 6.0, "normalized": 0.15}
"""The displacement of a command from which a joint is judged, by unit: well above what gravity
does to an arm that begins to hold its pose."""
LONGEST_LAG_S = 0.4
SETTLED_S = 0.2
"""How long a command must have stayed displaced before a joint that does not follow is judged."""
WATCHED_S = 20.0
"""Of motion; a joint that has not moved until then is not judged."""
KEPT_HZ = 50.0
"""Samples per second that are kept, of faster commands."""
EXPLAINED = 0.4
"""The error of an explanation, as a share of the command's displacement, that is good enough."""
FOLLOWED, FAR = 0.25, 3.0
"""The error at which a joint follows its command, and the displacement, in those that are enough,
after which that is known for good: two joints may begin to move alike."""
NOT_EXPLAINED = 0.75
"""The error of what should be, from which another explanation is looked for."""
FEWEST = 5
"""Samples with enough displacement."""
GRIPPER_SHARE = 0.15
"""A gripper that moves less than this share of its command is in another unit."""
GRIPPER_LEAST = 0.015
"""A gripper that moves less than this share is blocked or without power, which is no unit."""
GRIPPER_WAIT_S = 0.6
"""How long a gripper may take."""


class MotionWatch:
    """Compares commands and states of one episode, from its first command on."""

    def __init__(self, spec: RobotSpec, accepted: Sequence[str] = ()) -> None:
        """Prepares for a robot; suspicions in `accepted` are not raised.

        A robot that is commanded by differences is not judged: its states are not commands.
        """
        self._names = spec.joint_names
        self._units = spec.units
        self._enough = np.array([ENOUGH.get(u, ENOUGH["normalized"]) for u in spec.units])
        self._counterparts = mirrored_dims(spec.joint_names)
        self._accepted = frozenset(accepted)
        self._is_judging = not spec.is_commanded_by_differences
        self._times_s: list[float] = []
        self._commands: list[NDArray[np.floating]] = []
        self._states: list[NDArray[np.floating]] = []
        self._is_judged = np.zeros(len(spec.joint_names), bool)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is judged."""
        return not self._is_judging or bool(self._is_judged.all())

    def add(
        self,
        times_s: NDArray[np.floating],
        commands: NDArray[np.floating],
        states: NDArray[np.floating],
    ) -> Finding | None:
        """Takes in the next ticks.

        Args:
            times_s: (n,) when the commands left.
            commands: (n, action_dim), as sent.
            states: (n, action_dim), the newest measured before each.

        Returns:
            The first hard suspicion that was not accepted, None if there is none.
        """
        if self.is_over or not len(times_s):
            return None
        for time_s, command, state in zip(times_s.tolist(), commands, states, strict=True):
            is_due = not self._times_s or time_s - self._times_s[-1] >= 0.9 / KEPT_HZ
            if is_due and np.isfinite(state).all():
                self._times_s.append(time_s)
                self._commands.append(np.asarray(command, np.float64))
                self._states.append(np.asarray(state, np.float64))
        found = self._judge()
        if self._times_s and self._times_s[-1] - self._times_s[0] > WATCHED_S:
            self._is_judging = False
        return found

    def _judge(self) -> Finding | None:
        if len(self._times_s) < FEWEST:
            return None
        moves = _Moves(self._times_s, self._commands, self._states)
        for dim in np.flatnonzero(~self._is_judged & moves.has_moved(self._enough)):
            for finding in self._judge_joint(int(dim), moves):
                if finding.name not in self._accepted:
                    return finding
        return None

    def _judge_joint(self, dim: int, moves: _Moves) -> Iterator[Finding]:
        """Yields what is wrong with a joint whose command has moved; a joint that follows its
        command is judged for good."""
        own = moves.error(dim, dim)
        if own < EXPLAINED:
            far = FAR * self._enough[dim]
            self._is_judged[dim] = own < FOLLOWED and moves.has_reached(dim, far)
            return
        if is_gripper(self._names[dim]):
            yield from self._judge_gripper(dim, moves)
        if own < NOT_EXPLAINED:
            return
        if (inverted := moves.error(dim, dim, sign=-1)) < EXPLAINED:
            yield self._inverted(dim, moves, inverted)
        elif moves.is_mirrored(dim, self._enough[dim]):
            yield self._mirrored(dim, moves)
        elif (other := self._mover(dim, moves)) is not None:
            yield self._exchanged(dim, other, moves)

    def _judge_gripper(self, dim: int, moves: _Moves) -> Iterator[Finding]:
        """Yields that a gripper moves by a small share of its command, in proportion to it."""
        if not moves.stayed(dim, 2 * self._enough[dim], GRIPPER_WAIT_S):
            return
        share = moves.share(dim)
        if share is not None and GRIPPER_LEAST <= share < GRIPPER_SHARE:
            command, measured = moves.last(dim)
            yield hard(
                "gripper_unit",
                f"{self._names[dim]}: commanded by {command:+.3g}, measured {measured:+.3g}: "
                f"{share:.2g} of it",
                "Convert the gripper's states and commands in the driver to one unit",
            )

    def _inverted(self, dim: int, moves: _Moves, error: float) -> Finding:
        command, measured = moves.last(dim)
        return hard(
            "joint_sign",
            f"{self._names[dim]}: commanded by {command:+.3g}{self._unit(dim)}, measured "
            f"{measured:+.3g}{self._unit(dim)}: it moves the other way",
            "Invert the joint in the driver, in its states or in its commands",
        )

    def _mirrored(self, dim: int, moves: _Moves) -> Finding:
        command, measured = moves.now(dim)
        return hard(
            "joint_sign",
            f"{self._names[dim]}: commanded to {command:.3g}{self._unit(dim)}, measured at "
            f"{measured:.3g}{self._unit(dim)}: its sign seems to be inverted",
            "Invert the joint in the driver, in its states or in its commands",
        )

    def _mover(self, dim: int, moves: _Moves) -> int | None:
        """Returns the joint that follows this one's command in its place, if there is one."""
        if not moves.stayed(dim, self._enough[dim], SETTLED_S):
            return None
        best: tuple[float, int] | None = None
        for other in range(len(self._names)):
            if other == dim or self._units[other] != self._units[dim]:
                continue
            if is_gripper(self._names[other]) != is_gripper(self._names[dim]):
                continue
            error = moves.error(dim, other)
            follows_own = moves.error(other, other, command_of_least=self._enough[other] / 2)
            if error < EXPLAINED and follows_own > NOT_EXPLAINED:
                best = min(best, (error, other)) if best else (error, other)
        return best[1] if best else None

    def _exchanged(self, dim: int, other: int, moves: _Moves) -> Finding:
        command, measured = moves.last(dim)
        moved = moves.last(other)[1]
        is_arm = self._counterparts is not None and self._counterparts[dim] == other
        found = (
            f"{self._names[dim]}: commanded by {command:+.3g}{self._unit(dim)}, measured "
            f"{measured:+.3g}; {self._names[other]} moved by {moved:+.3g} instead"
        )
        if is_arm:
            return hard(
                "arms_swapped", found, "Exchange the topics, addresses or cables of the two arms"
            )
        fix = "Give the driver's states and commands the order of the robot's joint names"
        return hard("joint_order", found, fix)

    def _unit(self, dim: int) -> str:
        return "" if self._units[dim] == "normalized" else f" {self._units[dim]}"


class _Moves:
    """Displacements since the start, of all joints."""

    def __init__(
        self,
        times_s: Sequence[float],
        commands: Sequence[NDArray[np.floating]],
        states: Sequence[NDArray[np.floating]],
    ) -> None:
        self._times_s = np.asarray(times_s)
        self._command, self._state = np.asarray(commands), np.asarray(states)
        self._by_command = self._command - self._command[0]
        self._by_state = self._state - self._state[0]
        interval_s = max(float(np.median(np.diff(self._times_s))), 1e-3)
        longest = min(round(LONGEST_LAG_S / interval_s), len(self._times_s) - 1)
        self._lags = sorted({round(lag) for lag in np.linspace(0, longest, 9)})

    def has_moved(self, enough: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Returns the joints whose command is, or was, displaced enough in `FEWEST` samples."""
        return (np.abs(self._by_command) >= enough).sum(axis=0) >= FEWEST

    def has_reached(self, dim: int, far: float) -> bool:
        """Whether a joint's command is, or was, displaced so far."""
        return bool(np.abs(self._by_command[:, dim]).max() >= far)

    def stayed(self, dim: int, enough: float, duration_s: float) -> bool:
        """Whether the command has been displaced enough, to one side, all of the last time."""
        is_recent = self._times_s >= self._times_s[-1] - duration_s
        recent = self._by_command[is_recent, dim]
        has_lasted = self._times_s[-1] - self._times_s[0] >= duration_s
        return bool(
            has_lasted and (np.abs(recent).min() >= enough) and np.ptp(np.sign(recent)) == 0
        )

    def error(
        self, dim: int, measured: int, *, sign: int = 1, command_of_least: float = 0.0
    ) -> float:
        """Returns how badly a joint's command explains what a joint does: 0 is perfect.

        Args:
            dim: whose command.
            measured: whose measured displacement.
            sign: -1 for the opposite of the command.
            command_of_least: a smaller displacement of the command counts as none, and explains
                nothing.
        """
        by_command, by_state = self._by_command[:, dim], self._by_state[:, measured]
        if np.abs(by_command).max() < command_of_least:
            return 1.0 + float(np.abs(by_state).max() > 2 * command_of_least)
        errors: list[float] = []
        for lag in self._lags:
            # Before the first command there was no displacement.
            delayed = np.concatenate([np.zeros(lag), by_command[: len(by_command) - lag]])
            scale = float(np.sqrt((delayed**2).mean()))
            if scale > 1e-9:
                error = float(np.sqrt(((by_state - sign * delayed) ** 2).mean()))
                errors.append(error / scale)
        return min(errors, default=1.0)

    def is_mirrored(self, dim: int, enough: float) -> bool:
        """Whether a joint has come to rest at the negative of its command."""
        is_recent = self._times_s >= self._times_s[-1] - SETTLED_S
        command, state = self._command[is_recent, dim], self._state[is_recent, dim]
        size = np.abs(command).min()
        has_left = np.abs(self._by_state[is_recent, dim]).min() >= size
        close = np.abs(state + command).max() <= 0.25 * size
        return bool(size >= 2 * enough and has_left and close)

    def share(self, dim: int) -> float | None:
        """Returns the share of the command's displacement that was measured; None if what was
        measured is not in proportion to the command."""
        by_command, by_state = self._by_command[:, dim], self._by_state[:, dim]
        best: tuple[float, float] | None = None
        for lag in self._lags:
            delayed = np.concatenate([np.zeros(lag), by_command[: len(by_command) - lag]])
            power = float((delayed**2).sum())
            total = float((by_state**2).sum())
            if power < 1e-12 or total < 1e-12:
                continue
            product = float((delayed * by_state).sum())
            alike = product / np.sqrt(power * total)
            if best is None or alike > best[0]:
                best = alike, product / power
        return best[1] if best is not None and best[0] > 0.9 else None

    def last(self, dim: int) -> tuple[float, float]:
        """Returns the newest displacements of a joint's command and state."""
        return float(self._by_command[-1, dim]), float(self._by_state[-1, dim])

    def now(self, dim: int) -> tuple[float, float]:
        """Returns the newest command and state of a joint."""
        return float(self._command[-1, dim]), float(self._state[-1, dim])
