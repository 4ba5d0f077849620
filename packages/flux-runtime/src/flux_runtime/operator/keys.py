"""Commands that are single keys on a terminal."""

from __future__ import annotations

import codecs
import os
import re
import signal
import termios
from typing import Any

from .commands import KEYS, MAX_TASK, TYPE_KEY, OperatorCommand

_READ_BYTES = 4096
_SEQUENCE = re.compile("\x1b[\\[O][0-?]*[ -/]*[@-~]?")
"""What cursor and function keys send (ECMA-48, section 5.4)."""
_ESCAPE, _BACKSPACES = "\x1b", ("\x7f", "\b")
_LOCAL_FLAGS, _SPECIAL = 3, 6
"""Places in what `tcgetattr` returns."""


class KeySource:
    """Reads single keys from a terminal, whose settings it changes between `open` and `close`.

    Ctrl-C goes on to be a signal. Ctrl-Z does not suspend this process, because nobody would be
    left to brake the robot.

    Attributes:
        has_ended: whether nothing will come any more.
        typed: the task that is being typed; None while keys are commands.
        may_type: whether a task may be typed now; elsewhere Space must never be a letter.
    """

    is_terminal = True

    def __init__(self, descriptor: int) -> None:
        self.has_ended = False
        self.typed: str | None = None
        self.may_type = False
        self._descriptor = descriptor
        self._before: list[Any] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._descriptor

    def open(self) -> list[OperatorCommand | str]:
        """Has the terminal pass on each key at once; keys that were pressed before are dropped.

        Returns:
            Nothing, which is what was asked for so far.
        """
        self._before = termios.tcgetattr(self._descriptor)
        settings = termios.tcgetattr(self._descriptor)
        settings[_LOCAL_FLAGS] &= ~(termios.ICANON | termios.ECHO)
        special = list(settings[_SPECIAL])
        special[termios.VMIN], special[termios.VTIME] = 1, 0
        special[termios.VSUSP] = os.fpathconf(self._descriptor, "PC_VDISABLE").to_bytes(1, "big")
        settings[_SPECIAL] = special
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, settings)
        return []

    def close(self) -> None:
        """Gives the terminal its settings back, if it is still there."""
        if self._before is None:
            return
        before, self._before = self._before, None
        # A process in the background would be suspended for this.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)
        except termios.error:
            self.has_ended = True
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def stop_typing(self) -> None:
        """Drops what is being typed: keys are commands from now on."""
        self.may_type = False
        self.typed = None

    def read(self) -> list[OperatorCommand | str]:
        """Returns the commands of the keys that were pressed."""
        try:
            received = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            received = b""
        if not received:
            self.has_ended = True
            return [OperatorCommand(kind="quit", text="the terminal is gone")]
        found: list[OperatorCommand | str] = []
        for key in _SEQUENCE.sub("", self._decoder.decode(received)):
            found += self._type(key) if self.typed is not None else self._press(key)
        return found

    def _press(self, key: str) -> list[OperatorCommand | str]:
        if key in KEYS:
            return [OperatorCommand(kind=KEYS[key])]
        if key != TYPE_KEY:
            return []
        if not self.may_type:
            return ["pause before you type a task"]
        self.typed = ""
        return []

    def _type(self, key: str) -> list[OperatorCommand | str]:
        typed = self.typed or ""
        if key in ("\r", "\n"):
            self.typed = None
            return [OperatorCommand(kind="task", text=typed.strip())] if typed.strip() else []
        if key == _ESCAPE:
            self.typed = None
        elif key in _BACKSPACES:
            self.typed = typed[:-1]
        elif key.isprintable() and len(typed) < MAX_TASK:
            self.typed = typed + key
        return []
