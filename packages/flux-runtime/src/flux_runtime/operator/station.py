"""The operator's side of a run: when an episode begins, pauses and ends, and how it went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from flux_core.errors import FluxError, RobotError

from ..control.episode import EpisodeResult
from ..control.realtime_session import RealtimeSession
from .commands import OperatorCommand
from .desk import OperatorDesk
from .pose import go_to_prepare_pose
from .status import OperatorStatus, Screen, State

WAIT_S = 0.1
"""Between two looks at signals and at the driver while nothing moves."""
HOME_TASK = "0"
"""As in FluxVLA's runner, the task that stands for the prepare pose."""


class OperatorStation:
    """Decides what happens next in a run, as the operator asks for it; an `EpisodeOperator`.

    It is used by one thread. Where nobody can ask for anything, episodes begin at once.

    Attributes:
        ending: why the operator has ended the episode early, in words; None if that is not so.
        success: how the operator judges the episode; None if that is not known.
        has_quit: whether the operator has ended the run.
    """

    def __init__(self, desk: OperatorDesk, screen: Screen, tasks: Mapping[str, str]) -> None:
        """Takes the tasks of the policy: key -> task in words."""
        self.ending: str | None = None
        self.success: bool | None = None
        self.has_quit = False
        self._desk = desk
        self._screen = screen
        self._tasks = dict(tasks)
        self._status = OperatorStatus(state="idle")
        self._moving: Literal["running", "homing"] = "running"
        self._session: RealtimeSession | None = None
        self._max_s = 0.0

    # Between episodes.

    def choose(self, session: RealtimeSession, episode: int) -> RealtimeSession | None:
        """Waits until the operator begins an episode.

        Args:
            session: of the run, or what the last call returned.
            episode: its number, from 1.

        Returns:
            The session with the task of the episode; None if the operator has quit.

        Raises:
            RobotError: the driver cannot go on.
            StoppedBySignal: a signal has ended the run.
        """
        self.ending = self.success = None
        episodes = session.options.episodes
        self._status = replace(self._status, episode=episode, episodes=episodes, text="")
        if not self.has_quit and not self._desk.is_attended:
            return session if self._waits_for_dead_man(session) else None
        while not self.has_quit:
            command = self._wait(session, "idle")
            match command.kind:
                case "start":
                    if self._may_start(session):
                        return session
                case "quit":
                    self.has_quit = True
                case _:
                    session = self._change(session, command)
        return None

    def judged(self, session: RealtimeSession, result: EpisodeResult) -> EpisodeResult:
        """Waits until the operator says how a finished episode went, or goes on without it.

        Raises:
            RobotError: the driver cannot go on.
            StoppedBySignal: a signal has ended the run.
        """
        is_open = result.outcome == "finished" and result.success is None and not self.has_quit
        if not is_open or not self._desk.is_attended:
            return result
        command = self._wait(session, "ended", ("success", "failure", "start", "next", "quit"))
        match command.kind:
            case "success" | "failure":
                return replace(result, success=command.kind == "success")
            case "quit":
                self.has_quit = True
            case "next":
                self._desk.put_back(command)
            case _:
                pass
        return result

    def prepare_first(self, session: RealtimeSession) -> None:
        """Moves the robot to its prepare pose, as soon as the operator lets it move.

        Raises:
            RobotError: a fault has stopped the robot.
            StoppedBySignal: a signal has.
        """
        while self._desk.is_attended:
            text = "first to the prepare pose"
            command = self._wait(session, "idle", ("start", "home", "quit"), text)
            if command.kind == "quit":
                self.has_quit = True
                return
            if self._may_start(session):
                break
        if self._waits_for_dead_man(session):
            self._prepare(session)

    def _prepare(self, session: RealtimeSession) -> None:
        """Moves the robot to its prepare pose, and says how that ended."""
        self._moving = "homing"
        try:
            self._show(self._moving, session)
            self._screen.say(go_to_prepare_pose(session, self))
        finally:
            self._moving = "running"
        self._take_stale_stops()

    def finish(self, session: RealtimeSession) -> None:
        """Does what the operator has asked for when the last episode ended.

        Raises:
            RobotError: a fault has stopped the robot.
            StoppedBySignal: a signal has.
        """
        command = self._desk.take()
        if isinstance(command, OperatorCommand) and command.kind == "home" and not self.has_quit:
            self._prepare(session)

    def confirm(self, question: str, is_cancelled: Callable[[], bool]) -> bool:
        """Asks a question; where commands are not keys, the option that leads to it is the
        answer."""
        if not self._desk.is_terminal:
            return True
        self._status = replace(self._status, state="question", text=question)
        self._refresh()
        while not is_cancelled():
            command = self._desk.take(WAIT_S)
            if isinstance(command, OperatorCommand):
                return command.kind == "yes"
        return False

    # While the robot moves.

    @property
    def has_paused(self) -> bool:
        """Whether the operator has stopped the running session."""
        return self._desk.has_stopped

    def attend(self, session: RealtimeSession) -> None:
        """Lets the operator stop the robot from now on."""
        self._session = session
        self._max_s = session.options.max_steps / session.spec.control_hz
        self._show(self._moving, session)
        self._desk.begin_motion(lambda reason: session.loop.stop(2, reason))

    def look(self, steps: int) -> None:
        """Takes the commands that end the episode, and shows the time that is left."""
        session = self._session
        assert session is not None
        is_homing = self._moving == "homing"
        while (command := self._desk.take()) is not None:
            if isinstance(command, str):
                self._screen.say(command)
            elif command.kind in ("success", "failure") and not is_homing:
                self.success = command.kind == "success"
                session.loop.finish()
            elif command.kind == "quit":
                self._quit(command)
            elif command.kind not in ("pause", "start", "resume"):
                self._screen.say(f"{command.kind}: pause first")
        left_s = None if is_homing else self._max_s - steps / session.spec.control_hz
        state = "pausing" if self._desk.has_stopped and not is_homing else self._moving
        self._status = replace(self._status, state=state, left_s=left_s)
        self._refresh()

    def leave(self) -> None:
        """Notes that the robot is at rest."""
        self._desk.end_motion()

    def waits_to_resume(self, session: RealtimeSession) -> bool:
        """Waits during a pause, and returns whether the episode goes on.

        Raises:
            RobotError: the driver cannot go on.
            StoppedBySignal: a signal has ended the run.
        """
        self._take_stale_stops()
        if self.has_quit or self.success is not None:
            return False
        if not self._desk.is_attended:
            self.ending = self._desk.release_text()
            self.has_quit = True
            return False
        while True:
            command = self._wait(
                session,
                "paused",
                ("start", "resume", "success", "failure", "next", "task", "home", "quit"),
            )
            match command.kind:
                case "start" | "resume":
                    if self._may_start(session):
                        return True
                case "success" | "failure":
                    self.success = command.kind == "success"
                    return False
                case "quit":
                    self._quit(command)
                    return False
                case _:
                    self.ending = f"ended by the operator ({command.kind})"
                    self._desk.put_back(command)
                    return False

    # What these share.

    def _wait(
        self,
        session: RealtimeSession,
        state: State,
        expected: tuple[str, ...] = ("start", "next", "task", "home", "quit"),
        text: str = "",
    ) -> OperatorCommand:
        """Waits for a command that makes sense, and watches signals and the driver meanwhile."""
        self._desk.allow_typing("task" in expected)
        self._show(state, session, text)
        while True:
            session.raise_if_signalled()
            if (failure := session.driver.failure) is not None:
                raise RobotError(f"{session.spec.name}: the driver cannot go on: {failure}")
            for event in session.driver.events():
                self._screen.say(f"driver: {event.name} {event.text}".strip())
            command = self._desk.take(WAIT_S)
            self._status = replace(self._status, typed=self._desk.typed)
            self._refresh()
            if isinstance(command, str):
                self._screen.say(command)
            elif command is not None and command.kind in expected:
                return command
            elif command is not None and command.kind not in ("pause", "yes"):
                self._screen.say(f"{command.kind}: not now; {self._status.words()}")

    def _may_start(self, session: RealtimeSession) -> bool:
        """Says what keeps the robot from moving; not an error while somebody can change that."""
        dead_man = self._desk.dead_man
        if dead_man is not None and self._desk.is_held_back:
            again = f"{self._desk.release_text()}: begin a new run"
            hold = f"hold the dead-man ({dead_man.name}) first"
            self._screen.say(again if dead_man.is_unplugged else hold)
            return False
        try:
            session.outside_limits()
        except RobotError as error:
            self._screen.say(str(error))
            return False
        return True

    def _waits_for_dead_man(self, session: RealtimeSession) -> bool:
        """Waits until somebody holds the dead-man, if there is one; false if the operator quits."""
        dead_man = self._desk.dead_man
        if dead_man is not None and self._desk.is_held_back:
            self._screen.say(f"hold the dead-man ({dead_man.name})")
        while dead_man is not None and self._desk.is_held_back:
            if dead_man.is_unplugged:
                raise RobotError(f"{session.spec.name}: {self._desk.release_text()}")
            session.raise_if_signalled()
            command = self._desk.take(WAIT_S)
            if isinstance(command, OperatorCommand) and command.kind == "quit":
                self.has_quit = True
                return False
        return True

    def _change(self, session: RealtimeSession, command: OperatorCommand) -> RealtimeSession:
        if command.kind == "home" or (command.kind == "task" and command.text == HOME_TASK):
            if self._may_start(session):
                self._prepare(session)
            return session
        task = self._next_task(session) if command.kind == "next" else command.text
        if task is None:
            self._screen.say("next: this policy has no other tasks; send or type one")
            return session
        try:
            return session.with_task(self._tasks.get(task, task))
        except FluxError as error:
            self._screen.say(str(error))
            return session

    def _next_task(self, session: RealtimeSession) -> str | None:
        tasks = list(dict.fromkeys(self._tasks.values()))
        if not tasks or tasks == [session.prompt]:
            return None
        if session.prompt not in tasks:
            return tasks[0]
        return tasks[(tasks.index(session.prompt) + 1) % len(tasks)]

    def _quit(self, command: OperatorCommand) -> None:
        if self.has_quit:
            return
        self.has_quit = True
        self.ending = "quit by the operator" + (f": {command.text}" if command.text else "")

    def _take_stale_stops(self) -> None:
        """Takes the commands that have stopped the robot already."""
        kept: list[OperatorCommand] = []
        while (command := self._desk.take()) is not None:
            if isinstance(command, str):
                self._screen.say(command)
            elif command.kind == "quit":
                self._quit(command)
            elif command.kind != "pause":
                kept.append(command)
        for command in reversed(kept):
            self._desk.put_back(command)

    def _refresh(self) -> None:
        if self._desk.is_attended:
            self._screen.show(self._status)

    def _show(self, state: State, session: RealtimeSession, text: str = "") -> None:
        self._status = replace(
            self._status, state=state, task=session.prompt, left_s=None, text=text, typed=None
        )
        self._refresh()
