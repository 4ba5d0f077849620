"""What happens on the server, one line each: for people, or as JSON for a log collector."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]
MOST_PER_SECOND = 10
"""Lines of one event. A client that misbehaves must not fill the disk."""
LONGEST_VALUE = 300
MOST_UNWRITTEN = 1000
"""Lines that may wait for whoever reads the log. Beyond them lines are lost, and not time."""

Value = str | int | float | bool | None


class EventLog:
    """Writes one line per event, in a thread: whoever reads the log must not hold up the server.

    Whoever calls it passes no image, state or token.

    Args:
        stream: where to.
        log_format: 'text' or 'json'.
        now_s: the time of day.
    """

    def __init__(
        self, stream: TextIO, log_format: LogFormat, now_s: Callable[[], float] = time.time
    ) -> None:
        self._stream, self._format, self._now_s = stream, log_format, now_s
        # Event -> the second of its last lines, how many they were, and how many were left out.
        self._recent: dict[str, tuple[int, int, int]] = {}
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_UNWRITTEN)
        self._thread = threading.Thread(target=self._run, name="flux-serve-log", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Waits until all lines are written, but no longer than this."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (
                OSError,
                ValueError,
            ):  # a log that nobody reads any more must not end the server
                continue

    def write(self, event: str, **fields: Value) -> None:
        """Writes an event, unless there were too many of its kind within this second."""
        now_s = self._now_s()
        second, lines, left_out = self._recent.get(event, (0, 0, 0))
        if second != int(now_s):
            second, lines = int(now_s), 0
        if lines >= MOST_PER_SECOND:
            self._recent[event] = (second, lines, left_out + 1)
            return
        self._recent[event] = (second, lines + 1, 0)
        if left_out:
            fields["left_out"] = left_out
        at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(self._line(at.replace("+00:00", "Z"), event, fields))

    def _line(self, at: str, event: str, fields: dict[str, Value]) -> str:
        plain = {name: _plain(value) for name, value in fields.items() if value is not None}
        if self._format == "json":
            return json.dumps({"time": at, "event": event, **plain})
        return " ".join([at, event, *(f"{name}={_shown(value)}" for name, value in plain.items())])


def _plain(value: Value) -> Value:
    if isinstance(value, float):
        return round(value, 3)
    return value[:LONGEST_VALUE] if isinstance(value, str) else value


def _shown(value: Value) -> str:
    """Returns a value as text without spaces or control characters, quoted if it had any."""
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if text and is_plain else json.dumps(text)
