"""The thread that passes commands on to a driver, each one once and never one that is old."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

from .events import Events
from .gate import Gate
from .memory import Command, CommandResult
from .threads import WAIT_S, DriverThread


class CommandStamp(NamedTuple):
    """What the control loop knows of a command; times are on `time.monotonic_ns()`.

    Attributes:
        sequence: counted from 1 within the session.
        session: the session that it belongs to.
        tick_ns: the time for which the limits were applied.
        observed_ns: the oldest capture time of what it was made from; 0 if none.
        sent_ns: when it left the control loop.
        flags: the control loop's tick flags.
    """

    sequence: int
    session: int
    tick_ns: int
    observed_ns: int
    sent_ns: int
    flags: int


class SessionCounts(NamedTuple):
    """What has become of the commands of a session.

    Attributes:
        session: its number; 0 for none.
        accepted: commands that `send` has accepted.
        superseded: commands that a newer one replaced before this process took them.
    """

    session: int = 0
    accepted: int = 0
    superseded: int = 0


class CommandSender(DriverThread):
    """Passes each command of the open session to `send` once, and acknowledges it.

    Attributes:
        counts: of the newest session.
    """

    def __init__(
        self,
        robot: Any,
        joint_names: Sequence[str],
        memory: Any,
        gate: Gate,
        events: Events,
        max_retries: int,
        progress: Callable[[], int] | None = None,
    ) -> None:
        super().__init__("send", events, max_retries=max_retries, pause_s=0.0)
        self._robot = robot
        self._joint_names = tuple(joint_names)
        self._memory = memory
        self._gate = gate
        self._progress = progress
        self._wants_stamp = callable(getattr(robot, "send_stamped", None))
        self._newest = 0
        self.counts = SessionCounts()

    def step(self) -> bool:
        """Waits for a command and sends it."""
        command = self._memory.wait_command(WAIT_S)
        if command is None:
            return False
        if command.session == self._gate.session:
            self._count_superseded(command)
        if command.result != CommandResult.COMMAND:
            self._report(command)
            return False
        if not self._gate.enter(command.session):
            return False
        try:
            self._send(command)
        finally:
            self._gate.leave()
        if self._progress is not None:
            self._memory.set_progress(self._progress())
        self.counts = self.counts._replace(accepted=self.counts.accepted + 1)
        self._memory.acknowledge(command)
        return True

    def _send(self, command: Command) -> None:
        if self._wants_stamp:
            stamp = CommandStamp(*(getattr(command, name) for name in CommandStamp._fields))
            self._robot.send_stamped(command.values, stamp)
        else:
            self._robot.send(command.values, command.tick_ns / 1e9)

    def _count_superseded(self, command: Command) -> None:
        """Counts the commands since the last one that this thread has not seen."""
        if command.session != self.counts.session:
            self.counts, self._newest = SessionCounts(command.session), 0
        missed = command.sequence - self._newest - 1
        self._newest = command.sequence
        if missed > 0:
            self.counts = self.counts._replace(superseded=self.counts.superseded + missed)
            newer = f"superseded by command {command.sequence} before the driver took it"
            name = f"command {command.sequence - 1}"
            self._events.report("command_superseded", f"{name}: {newer}", missed)

    def _report(self, command: Command) -> None:
        """Reports a command that was not executed, unless its session had ended."""
        if command.result == CommandResult.OTHER_SESSION:
            return
        joint = self._joint_names[command.joint] if command.joint >= 0 else ""
        text = {
            CommandResult.TOO_OLD: "dropped: older than three periods",
            CommandResult.STEP: f"refused: {joint}: expected a step of at most "
            f"{command.max_step:.4g}, got {command.step:.4g}",
            CommandResult.NOT_FINITE: f"refused: {joint}: expected a finite number",
            CommandResult.NO_STATE: "refused: expected a state before the first command, got none",
        }[command.result]
        name = f"command_{command.result.name.lower()}"
        self._events.report(name, f"command {command.sequence}: {text}")
