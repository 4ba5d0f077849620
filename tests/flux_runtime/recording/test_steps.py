"""Which ticks become rows of a dataset."""

from __future__ import annotations

import numpy as np
import pytest

from flux_runtime.control.command_monitor import RETURNING
from flux_runtime.control.episode_log import realtime_rows
from flux_runtime.recording.steps import ControlSteps, rows_dtype

RUNNING, HOLDING, STOPPING = 2, 3, 4
START_S = 12_345.678


def ticks(count: int, command_hz: float, first: int = 1) -> np.ndarray:
    rows = np.zeros(count, realtime_rows(2, 2, 1))
    rows["sequence"] = first + np.arange(count)
    rows["deadline_s"] = START_S + (rows["sequence"] - 1) / command_hz
    rows["sent_s"] = rows["deadline_s"] + 1e-4
    rows["frame_age_s"] = 0.02
    rows["phase"] = RUNNING
    rows["command"] = rows["sequence"][:, None]
    return rows


def steps(control_hz: float = 50.0) -> ControlSteps:
    return ControlSteps(control_hz, rows_dtype(2, 2, 1))


def commands(found: np.ndarray) -> list[int]:
    return found["action"][:, 0].astype(int).tolist()


@pytest.mark.parametrize(
    ("command_hz", "kept"),
    [(50, [1, 2, 3, 4]), (200, [1, 5, 9, 13]), (125, [1, 4, 6, 9]), (50.0001, [1, 2, 3, 4])],
)
def test_there_is_one_row_per_control_step(command_hz: float, kept: list[int]) -> None:
    chosen = steps()
    rows = ticks(13, command_hz)
    found = [*commands(chosen.take(rows[:4])), *commands(chosen.take(rows[4:]))]
    assert found[:4] == kept
    assert chosen.num_missed == 0


def test_times_are_those_of_the_command_and_of_the_newest_picture() -> None:
    rows = ticks(2, 50)
    rows["frame_age_s"][1] = np.nan
    found = steps().take(rows)
    assert found["time_ns"][0] == pytest.approx((START_S + 1e-4) * 1e9, abs=20)
    assert found["frames_ns"][0, 0] == pytest.approx((START_S + 1e-4 - 0.02) * 1e9, abs=20)
    assert found["frames_ns"][1, 0] == 0  # there was none


def test_only_the_steps_of_the_episode_are_kept() -> None:
    rows = ticks(6, 50)
    rows["flags"][:2] = RETURNING
    rows["phase"][3] = HOLDING
    rows["phase"][5] = STOPPING
    assert commands(steps().take(rows)) == [3, 4, 5]


def test_steps_without_a_command_are_counted() -> None:
    chosen = steps()
    rows = ticks(8, 50)
    assert commands(chosen.take(rows[[0, 1, 4, 7]])) == [1, 2, 5, 8]
    assert chosen.num_missed == 4


def test_another_session_of_the_same_episode_begins_a_new_count() -> None:
    """A robot that was paused goes on later, and nothing is missed meanwhile."""
    chosen = steps()
    chosen.take(ticks(3, 50))
    later = ticks(3, 50)
    later["deadline_s"] += 7.003
    assert commands(chosen.take(later)) == [1, 2, 3]
    assert chosen.num_missed == 0
