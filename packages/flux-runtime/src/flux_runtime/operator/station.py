"""The operator's side of a run: when an episode begins, pauses and ends, and how it went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from flux_core.errors import FluxError, RobotError

from ..control.episode import EpisodeResult
from ..control.realtime_session import RealtimeSession
from .commands import Command
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
        self._session: RealtimeSession | None = None
        self._max_s = 0.0
        self._spent_s = 0.0

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
        if self.has_quit:
            return None
        if not self._desk.is_attended:
            self._wait_until_held(session)
            return session
        while True:
            command = self._wait(session, "idle")
            match command.kind:
                case "start":
                    if self._may_start(session):
                        return session
                case "quit":
                    self.has_quit = True
                    return None
                case _:
                    session = self._change(session, command)

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

    def prepare(self, session: RealtimeSession) -> None:
        """Moves the robot to its prepare pose, and says how that ended.

        Raises:
            RobotError: a fault has stopped the robot.
            StoppedBySignal: a signal has.
        """
        self._wait_until_held(session)
        self._show("homing", session)
        self._session = session
        self._screen.say(go_to_prepare_pose(session, self))
        self._take_stale_stops()

    def finish(self, session: RealtimeSession) -> None:
        """Does what the operator has asked for when the last episode ended.

        Raises:
            RobotError: a fault has stopped the robot.
            StoppedBySignal: a signal has.
        """
        wish = self._desk.take()
        if isinstance(wish, Command) and wish.kind == "home" and not self.has_quit:
            self.prepare(session)

    def confirm(self, question: str, is_cancelled: Callable[[], bool]) -> bool:
        """Asks a question; where commands are not keys, the option that leads to it is the
        answer."""
        if not self._desk.is_terminal:
            return True
        self._status = replace(self._status, state="question", text=question)
        self._screen.show(self._status)
        while not is_cancelled():
            wish = self._desk.take(WAIT_S)
            if isinstance(wish, Command):
                return wish.kind == "yes"
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
        state: State = "homing" if self._status.state == "homing" else "running"
        self._show(state, session)
        self._desk.begin_motion(lambda reason: session.loop.stop(2, reason))

    def look(self, steps: int) -> None:
        """Takes the wishes that end the episode, and shows the time that is left."""
        session = self._session
        assert session is not None
        is_homing = self._status.state == "homing"
        while (wish := self._desk.take()) is not None:
            if isinstance(wish, str):
                self._screen.say(wish)
            elif wish.kind in ("success", "failure") and not is_homing:
                self.success = wish.kind == "success"
                session.loop.finish()
            elif wish.kind == "quit":
                self._quit(wish)
            elif wish.kind not in ("pause", "start", "resume"):
                self._screen.say(f"{wish.kind}: pause first")
        left_s = None if is_homing else self._max_s - steps / session.spec.control_hz
        state = "pausing" if self._desk.has_stopped and not is_homing else self._status.state
        self._status = replace(self._status, state=state, left_s=left_s)
        self._screen.show(self._status)

    def leave(self) -> None:
        """Tells that the robot stands."""
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
    ) -> Command:
        """Waits for a command that makes sense, and watches signals and the driver meanwhile."""
        self._desk.allow_typing("task" in expected)
        self._show(state, session)
        while True:
            session.raise_if_signalled()
            if (failure := session.driver.failure) is not None:
                raise RobotError(f"{session.spec.name}: the driver cannot go on: {failure}")
            for event in session.driver.events():
                self._screen.say(f"driver: {event.name} {event.text}".strip())
            wish = self._desk.take(WAIT_S)
            self._status = replace(self._status, typed=self._desk.typed)
            self._screen.show(self._status)
            if isinstance(wish, str):
                self._screen.say(wish)
            elif wish is not None and wish.kind in expected:
                return wish
            elif wish is not None and wish.kind not in ("pause", "yes"):
                self._screen.say(f"{wish.kind}: not now; {self._status.words()}")

    def _may_start(self, session: RealtimeSession) -> bool:
        """Says what keeps the robot from moving; not an error while somebody can change that."""
        if self._desk.is_held_back:
            assert self._desk.dead_man is not None
            self._screen.say(f"hold the dead-man ({self._desk.dead_man.name}) first")
            return False
        try:
            session.outside_limits()
        except RobotError as error:
            self._screen.say(str(error))
            return False
        return True

    def _wait_until_held(self, session: RealtimeSession) -> None:
        has_said = False
        while self._desk.is_held_back:
            assert self._desk.dead_man is not None
            if self._desk.dead_man.is_unplugged:
                raise RobotError(f"{session.spec.name}: {self._desk.release_text()}")
            if not has_said:
                self._screen.say(f"hold the dead-man ({self._desk.dead_man.name})")
                has_said = True
            session.raise_if_signalled()
            self._desk.take(WAIT_S)

    def _change(self, session: RealtimeSession, command: Command) -> RealtimeSession:
        if command.kind == "home" or (command.kind == "task" and command.text == HOME_TASK):
            if self._may_start(session):
                self.prepare(session)
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

    def _quit(self, command: Command) -> None:
        self.has_quit = True
        self.ending = "quit by the operator" + (f": {command.text}" if command.text else "")

    def _take_stale_stops(self) -> None:
        """Takes the wishes that have stopped the robot already."""
        kept: list[Command] = []
        while (wish := self._desk.take()) is not None:
            if isinstance(wish, str):
                self._screen.say(wish)
            elif wish.kind == "quit":
                self._quit(wish)
            elif wish.kind != "pause":
                kept.append(wish)
        for wish in reversed(kept):
            self._desk.put_back(wish)

    def _show(self, state: State, session: RealtimeSession) -> None:
        self._status = replace(
            self._status, state=state, task=session.prompt, left_s=None, text="", typed=None
        )
        self._screen.show(self._status)
