"""Log lines: one per event, nothing that breaks a line, and never too many."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time

from flux_runtime.serve.events import (
    LONGEST_VALUE,
    MOST_PER_SECOND,
    MOST_UNWRITTEN,
    EventLog,
    LogFormat,
)


def _lines(log_format: LogFormat, *events: dict[str, object]) -> list[str]:
    stream = io.StringIO()
    log = EventLog(stream, log_format, now_s=lambda: 0.25)
    for fields in events:
        log.write("connected", **fields)  # type: ignore[arg-type]
    log.close()
    return stream.getvalue().splitlines()


def test_text_has_the_time_the_event_and_its_fields() -> None:
    (line,) = _lines("text", {"client": "127.0.0.1:1", "seconds": 1.23456, "why": None})
    assert line == "1970-01-01T00:00:00.250Z connected client=127.0.0.1:1 seconds=1.235"


def test_json_has_the_same() -> None:
    (line,) = _lines("json", {"client": "127.0.0.1:1", "token": 0})
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250Z",
        "event": "connected",
        "client": "127.0.0.1:1",
        "token": 0,
    }


def test_a_value_from_a_stranger_stays_in_its_line_and_its_field() -> None:
    evil = 'x\n1970 connected client=root "\x1b[2J'
    for log_format in ("text", "json"):
        (line,) = _lines(log_format, {"reason": evil})
        assert line.isprintable()
    (line,) = _lines("text", {"reason": evil})
    assert json.loads(line.partition("reason=")[2]) == evil


def test_long_values_are_cut() -> None:
    (line,) = _lines("text", {"reason": "x" * 10_000})
    assert line.count("x") == LONGEST_VALUE


def test_a_flood_of_events_is_left_out_and_counted() -> None:
    stream, now = io.StringIO(), [0.0]
    log = EventLog(stream, "json", now_s=lambda: now[0])
    for _ in range(1000):
        log.write("connection_refused", kind="no_token")
    log.write("connected")
    now[0] = 1.0
    log.write("connection_refused", kind="no_token")
    log.close()
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(entries) == MOST_PER_SECOND + 2
    assert entries[-1]["left_out"] == 1000 - MOST_PER_SECOND


def test_a_log_that_is_gone_ends_nothing() -> None:
    stream = io.StringIO()
    log = EventLog(stream, "text")
    stream.close()
    log.write("connected")
    log.close()


def test_a_log_that_nobody_reads_holds_up_nobody() -> None:
    read, write = os.pipe()
    stream, now = os.fdopen(write, "w"), [0.0]
    log = EventLog(stream, "text", now_s=lambda: now[0])
    began_s = time.monotonic()  # of what would never end
    for _ in range(2 * MOST_UNWRITTEN):
        log.write("connected", reason="x" * LONGEST_VALUE)
        now[0] += 1.0
    log.close(0.1)
    assert time.monotonic() - began_s < 30
    os.close(read)
    log.close()
    with contextlib.suppress(BrokenPipeError):
        stream.close()
