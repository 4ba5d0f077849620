"""Finds out who can ask for something: a terminal, a channel of lines, or nobody."""

from __future__ import annotations

import os
import select

from .dead_man import DeadMan
from .desk import OperatorDesk
from .keys import KeySource
from .lines import LineSource

STDIN = 0


def opened_desk(dead_man: DeadMan | None = None, descriptor: int = STDIN) -> OperatorDesk:
    """Returns the desk for standard input, or for another descriptor.

    Nobody is there if the input is closed or at its end already, as with `< /dev/null`, and for a
    run in the background of its terminal, which may not read from it.
    """
    return OperatorDesk(_source_of(descriptor), dead_man)


def _source_of(descriptor: int) -> KeySource | LineSource | None:
    try:
        if os.isatty(descriptor):
            is_in_front = os.tcgetpgrp(descriptor) == os.getpgrp()
            return KeySource(descriptor) if is_in_front else None
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        events = dict(poll.poll(0)).get(descriptor, 0)
    except OSError:
        return None
    if events & select.POLLNVAL:
        return None
    source = LineSource(descriptor)
    if not events:
        return source
    return source if source.look_ahead() else None
