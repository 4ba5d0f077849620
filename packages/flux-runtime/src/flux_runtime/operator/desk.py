"""Where the operator's commands arrive: a thread that waits for them, and for the dead-man.

It does two things only: it keeps the commands until somebody takes them, and for those that must
not wait it stops the robot at once.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .commands import STOPS_AT_ONCE, OperatorCommand
from .dead_man import DeadMan
from .keys import KeySource
from .lines import LineSource

Stop = Callable[[str], None]
"""Stops the robot; the argument says why. Called on the desk's thread."""
_LOOK_EVERY_MS = 200
"""The dead-man is looked at so often even if its device says nothing."""
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


class OperatorDesk:
    """Takes commands from one source, and looks at the dead-man, between `with` and its end.

    Attributes:
        dead_man: the button that must be held while the robot moves; None if there is none.
    """

    def __init__(
        self, source: KeySource | LineSource | None, dead_man: DeadMan | None = None
    ) -> None:
        """Takes a source of None where nobody can ask for anything."""
        self.dead_man = dead_man
        self._source = source
        self._changed = threading.Condition()
        self._waiting: deque[OperatorCommand | str] = deque()
        self._stop: Stop | None = None
        self._has_stopped = False
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="flux-operator", daemon=True)

    def __enter__(self) -> Self:
        if self._source is not None:
            self._take_in(self._source.open())
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            os.write(self._wake_write, b"\0")
            self._thread.join()
        finally:
            if self._source is not None:
                self._source.close()
            if self.dead_man is not None:
                self.dead_man.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    @property
    def is_attended(self) -> bool:
        """Whether somebody can ask for something."""
        return self._source is not None

    @property
    def is_terminal(self) -> bool:
        """Whether commands are keys."""
        return self._source is not None and self._source.is_terminal

    @property
    def typed(self) -> str | None:
        """The task that is being typed, if one is."""
        return self._source.typed if isinstance(self._source, KeySource) else None

    @property
    def is_held_back(self) -> bool:
        """Whether there is a dead-man that nobody holds."""
        return self.dead_man is not None and not self.dead_man.is_held

    def allow_typing(self, is_allowed: bool) -> None:
        """Says whether a task may be typed now."""
        if isinstance(self._source, KeySource):
            if is_allowed:
                self._source.may_type = True
            else:
                self._source.stop_typing()

    def begin_motion(self, stop: Stop) -> None:
        """Says how to stop the robot, which begins to move; it is stopped at once if nobody holds
        the dead-man, or a command that stops it waits already."""
        self.allow_typing(False)
        with self._changed:
            self._stop, self._has_stopped = stop, False
            waiting = [command for command in self._waiting if isinstance(command, OperatorCommand)]
            kinds = [command.kind for command in waiting if command.kind in STOPS_AT_ONCE]
            if kinds:
                self._stop_now(f"{kinds[0]} by the operator")
            elif self.is_held_back:
                self._stop_now(self.release_text())

    def end_motion(self) -> bool:
        """Notes that the robot is at rest, and returns whether this desk has stopped it."""
        with self._changed:
            self._stop = None
            return self._has_stopped

    @property
    def has_stopped(self) -> bool:
        """Whether this desk has stopped the motion that was begun last."""
        return self._has_stopped

    def release_text(self) -> str:
        """Why nobody holds the dead-man."""
        assert self.dead_man is not None
        what = "unplugged" if self.dead_man.is_unplugged else "released"
        return f"the dead-man ({self.dead_man.name}) was {what}"

    def take(self, timeout_s: float = 0.0) -> OperatorCommand | str | None:
        """Returns the next command, or what to tell the operator instead; None if there is none."""
        with self._changed:
            if not self._waiting and timeout_s > 0:
                self._changed.wait(timeout_s)
            return self._waiting.popleft() if self._waiting else None

    def put_back(self, command: OperatorCommand) -> None:
        """Leaves a command for whoever takes the next one."""
        with self._changed:
            self._waiting.appendleft(command)

    def _stop_now(self, reason: str) -> None:
        if self._stop is not None and not self._has_stopped:
            self._has_stopped = True
            self._stop(reason)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        source, dead_man = self._source, self.dead_man
        if source is not None:
            poll.register(source.fileno(), select.POLLIN)
        if dead_man is not None:
            poll.register(dead_man.fileno(), select.POLLIN)
        while True:
            ready = dict(poll.poll(_LOOK_EVERY_MS if dead_man is not None else None))
            if self._wake_read in ready:
                return
            if source is not None and source.fileno() in ready:
                self._take_in(source.read())
                if source.has_ended:
                    poll.unregister(source.fileno())
                    source = None
            if dead_man is not None:
                self._look_at(dead_man)
                if dead_man.is_unplugged or ready.get(dead_man.fileno(), 0) & _GONE:
                    poll.unregister(dead_man.fileno())
                    dead_man = None

    def _take_in(self, commands: list[OperatorCommand | str]) -> None:
        with self._changed:
            for command in commands:
                if isinstance(command, OperatorCommand) and command.kind in STOPS_AT_ONCE:
                    self._stop_now(f"{command.kind} by the operator")
                self._waiting.append(command)
            self._changed.notify_all()

    def _look_at(self, dead_man: DeadMan) -> None:
        with self._changed:
            if dead_man.look():
                self._stop_now(self.release_text())
                advice = "begin a new run" if dead_man.is_unplugged else "hold it, then go on"
                self._waiting.append(f"{self.release_text()}: {advice}")
                self._changed.notify_all()
