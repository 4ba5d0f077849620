"""The judge of the fault tests finds planted violations of each kind, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .fake_arm.judge import (
    ArmLog,
    Limits,
    judge,
    largest_gap_s,
    largest_stamped_gap_s,
    time_to_rest_s,
    worst,
)

LIMITS = Limits(
    lower=(-1.0, -1.0),
    upper=(1.0, 1.0),
    max_velocity=(1.5, 1.5),
    max_acceleration=(6.0, 6.0),
    max_jerk=(60.0, 60.0),
    control_hz=25.0,
)
PERIOD_NS = 40_000_000
MAX_AGE_S = 0.5
Entries = list[dict[str, Any]]


def _smooth(count: int = 60) -> Entries:
    """Commands along a cosine that starts at rest and stays within all limits."""
    entries: Entries = []
    for index in range(count):
        at = 1_000_000_000 + index * PERIOD_NS
        value = 0.4 * np.cos(1.5 * index * 0.04)
        entries.append(
            {
                "t": at + 1_000_000,
                "what": "command",
                "command": [float(np.float32(value)), 0.0],
                "measured": [value, 0.0],
                "stamp": {
                    "sequence": index + 1,
                    "session": 1,
                    "tick_ns": at,
                    "observed_ns": at - 100_000_000,
                    "flags": 0,
                },
                "is_stopped": False,
                "is_known": True,
            }
        )
    return entries


def _read(folder: Path, entries: Entries) -> ArmLog:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return ArmLog.read(path)


def _step_of(size: float) -> Callable[[Entries], None]:
    def plant(entries: Entries) -> None:
        for entry in entries[30:]:
            entry["command"][1] = size

    return plant


def _at_30(**changes: Any) -> Callable[[Entries], None]:
    def plant(entries: Entries) -> None:
        for key, value in changes.items():
            place = entries[30] if key in entries[30] else entries[30]["stamp"]
            place[key] = value

    return plant


def _speed_up(entries: Entries) -> None:
    """A joint that gains speed without a jump: 0, 1, 3, 6, ... hundredths."""
    for number, entry in enumerate(entries[30:40]):
        entry["command"][1] = 0.0052 * number * (number + 1) / 2
    for entry in entries[40:]:
        entry["command"][1] = entries[39]["command"][1]


def _jerky(entries: Entries) -> None:
    """An acceleration of 5, from one command to the next: within its limit, but its jerk is not."""
    for number, entry in enumerate(entries[30:]):
        entry["command"][1] = 0.5 * 5.0 * (number * 0.04) ** 2


def _too_close(entries: Entries) -> None:
    """The same steps in half the time."""
    for number, entry in enumerate(entries):
        entry["command"][1] = float(np.float32(0.03 * number * (1 - np.exp(-number / 10))) / 2)
    for number, entry in enumerate(entries):
        entry["stamp"]["tick_ns"] = 1_000_000_000 + number * PERIOD_NS // 4


PLANTED = {
    "is not finite": _at_30(command=[float("nan"), 0.0]),
    "is outside its limits": _at_30(command=[1.0001, 0.0]),
    "velocity": _step_of(0.07),
    "acceleration": _speed_up,
    "jerk": _jerky,
    "is a step of": _step_of(0.5),
    "was sent after the stop": lambda entries: (
        _at_30(is_stopped=True)(entries),
        entries.append({"t": entries[29]["t"], "what": "stop", "category": 2}),
    ),
    "was made from an observation": _at_30(observed_ns=1),
    "names no observation": _at_30(observed_ns=0),
    "that the arm never gave": _at_30(is_known=False),
    "has sequence": _at_30(sequence=12),
    "is not later": _at_30(tick_ns=1_000_000_000),
}


def test_smooth_commands_pass(tmp_path: Path) -> None:
    log = _read(tmp_path, _smooth())
    assert judge(log, LIMITS, MAX_AGE_S) == []
    assert worst(log, LIMITS)["velocity"] == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_violation_is_found(kind: str, tmp_path: Path) -> None:
    entries = _smooth()
    PLANTED[kind](entries)
    assert any(kind in text for text in judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S))


def test_a_jerk_alone_is_found_as_a_jerk(tmp_path: Path) -> None:
    entries = _smooth(36)
    _jerky(entries)
    found = judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S)
    assert found and all("jerk" in text for text in found)


def test_the_same_steps_in_less_time_are_too_fast(tmp_path: Path) -> None:
    entries = _smooth()
    for entry in entries:
        entry["command"][0] = 0.4
    _too_close(entries)
    assert any("velocity" in text for text in judge(_read(tmp_path, entries), LIMITS, None))


def _two_sessions(gap_ns: int) -> Entries:
    """Commands that stand still, in two sessions, and where the arm was measured."""
    entries: Entries = []
    begin_ns = _smooth(1)[0]["t"]
    for session in (1, 2):
        for number, entry in enumerate(_smooth(20)):
            entry["command"] = entry["measured"] = [0.4, 0.0]
            entry["stamp"] |= {"session": session, "tick_ns": begin_ns - 1_000_000}
            entry["t"] = begin_ns
            entries.append(entry)
            begin_ns += gap_ns if number == 19 else PERIOD_NS
    for at_ns in range(entries[0]["t"], entries[-1]["t"], PERIOD_NS // 2):
        entries.append({"t": at_ns, "what": "position", "measured": [0.4, 0.0]})
    return entries


def test_the_time_between_two_sessions_is_no_gap(tmp_path: Path) -> None:
    entries = _two_sessions(1_100_000_000)
    log = _read(tmp_path, entries)
    assert judge(log, LIMITS) == []
    assert largest_gap_s(log) == largest_stamped_gap_s(log) == pytest.approx(0.04)
    for entry in entries:
        if entry["what"] == "command":
            entry["stamp"]["session"] = 1
    log = _read(tmp_path, entries)
    assert largest_gap_s(log) == largest_stamped_gap_s(log) == pytest.approx(1.1)


@pytest.mark.parametrize(("seconds", "is_fine"), [(0.1, True), (0.5, False)])
def test_after_a_session_the_arm_may_settle_and_then_rests(
    seconds: float, is_fine: bool, tmp_path: Path
) -> None:
    entries = _two_sessions(1_100_000_000)
    last_ns = max(e["t"] for e in entries if e.get("stamp", {}).get("session") == 1)
    for entry in entries:
        if entry["what"] == "position":
            entry["measured"][0] -= 0.05 * (entry["t"] <= last_ns + seconds * 1e9)
    found = judge(_read(tmp_path, entries), LIMITS)
    assert all("between two sessions" in text for text in found)
    assert (found == []) is is_fine


def test_a_late_command_may_not_catch_up(tmp_path: Path) -> None:
    entries = _smooth()
    for entry in entries[30:]:
        entry["stamp"]["tick_ns"] += 2 * PERIOD_NS
        entry["t"] += 2 * PERIOD_NS
        entry["command"][1] = 0.1  # 0.83 rad/s over 120 ms, but 2.5 rad/s over one period
    assert any("velocity" in text for text in judge(_read(tmp_path, entries), LIMITS, None))


def test_commands_that_did_not_arrive_are_judged_by_the_whole_time(tmp_path: Path) -> None:
    entries = _smooth()
    del entries[30:32]
    assert judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S) == []
    entries[30]["command"][1] = 0.17  # 1.4 rad/s over three periods, to a standstill
    for entry in entries[31:]:
        entry["command"] = entries[30]["command"]
    assert judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S) == []
    entries[30]["command"] = [entries[30]["command"][0], 0.19]
    assert any("velocity" in text for text in judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S))


def test_a_session_whose_first_command_did_not_arrive_is_judged_by_the_whole_time(
    tmp_path: Path,
) -> None:
    entries = _smooth()[1:]
    entries[0]["measured"] = [0.4, 0.0]
    entries[0]["command"] = [0.4, 0.03]
    entries[1:] = []
    assert judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S) == []
    entries[0]["command"] = [0.4, 0.13]  # 1.6 rad/s over two periods
    assert judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S) != []


def test_a_held_command_may_name_no_observation(tmp_path: Path) -> None:
    entries = _smooth()
    _at_30(observed_ns=0, flags=1)(entries)
    assert judge(_read(tmp_path, entries), LIMITS, MAX_AGE_S) == []


def test_after_a_gap_the_arm_starts_from_where_it_stands(tmp_path: Path) -> None:
    entries = _smooth(20) + [dict(entry) for entry in _smooth(20)]
    for entry in entries[20:]:
        entry["stamp"] = dict(entry["stamp"], session=2, tick_ns=entry["stamp"]["tick_ns"] + 2**31)
        entry["t"] += 2**31
    assert judge(_read(tmp_path, entries), LIMITS, None) == []
    entries[20]["measured"] = [0.0, 0.0]
    assert judge(_read(tmp_path, entries), LIMITS, None) != []


@pytest.mark.parametrize(
    ("periods", "measured", "is_fine"), [(5, 0.4, True), (5, 0.0, False), (3, 0.4, False)]
)
def test_a_gap_whose_first_command_did_not_arrive_allows_a_start_from_the_measurement_only(
    periods: int, measured: float, is_fine: bool, tmp_path: Path
) -> None:
    entries, after = _smooth(30), _smooth(20)
    begin_ns = entries[-1]["stamp"]["tick_ns"] + periods * PERIOD_NS
    for number, entry in enumerate(after):
        tick_ns = begin_ns + number * PERIOD_NS
        entry["stamp"] |= {"sequence": 32 + number, "tick_ns": tick_ns, "observed_ns": tick_ns}
        entry["t"] = tick_ns + 1_000_000
    after[0]["measured"] = [measured, 0.0]
    assert (judge(_read(tmp_path, entries + after), LIMITS, MAX_AGE_S) == []) is is_fine


def test_gaps_and_the_time_to_rest_are_by_the_arms_clock(tmp_path: Path) -> None:
    entries = _smooth(10)
    entries[5]["t"] += 20_000_000
    for number in range(100):
        place = 0.01 * min(number, 40)
        entries.append({"t": number * 10_000_000, "what": "position", "measured": [place, 0.0]})
    log = _read(tmp_path, entries)
    assert largest_gap_s(log) == pytest.approx(0.06)
    assert time_to_rest_s(log, 100_000_000) == pytest.approx(0.3)
    assert time_to_rest_s(log, 900_000_000) == 0.0
