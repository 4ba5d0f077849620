"""The lines below the table of a run."""

from __future__ import annotations

from typing import Any

import pytest

from flux_runtime.run.console import summary_lines

REPORT: dict[str, Any] = {
    "success_rate": None,
    "ci95": None,
    "strict_success_rate": None,
    "strict_ci95": None,
    "ticks": 50,
    "deadline_misses": 0,
    "jitter_p99_ms": 0.1,
    "clock": "monotonic",
    "inference_p50_ms": None,
    "engine": "none",
    "mode": "sync",
    "mode_reason": "--mode",
    "speed": 1.0,
    "rtc": None,
    "violations": {},
    "commands_out_of_limit": 0,
    "outcome": "finished",
}


@pytest.mark.parametrize(
    ("accepted", "superseded", "words"),
    [
        (48, 2, "commands    50 sent, 48 accepted by the driver, 2 superseded"),
        (None, None, "commands    50 sent; how many reached the robot is unknown"),
    ],
)
def test_the_commands_that_reached_the_robot_are_told(
    accepted: int | None, superseded: int | None, words: str
) -> None:
    commands = {"sent": 50, "accepted": accepted, "superseded": superseded}
    assert words in summary_lines({**REPORT, "commands": commands})


def test_real_time_chunking_is_told_with_its_delays() -> None:
    rtc = {"method": "prefix", "delays": {"0": 1, "4": 12}, "late": 2}
    words = "mode        rtc (--mode); prefix; chunks by known rows: 1 with 0, 12 with 4; late: 2"
    assert words in summary_lines({**REPORT, "mode": "rtc", "rtc": rtc})
    assert "mode        sync (--mode)" in summary_lines(REPORT)


def test_a_recording_from_which_something_is_missing_is_named() -> None:
    lost = {"recording": "incomplete", "recording_dropped": {"chunks": 3, "ticks": 1}}
    words = "recording   incomplete, it cannot be replayed; dropped: 3 chunks, 1 ticks"
    assert words in summary_lines({**REPORT, **lost})
    assert not [line for line in summary_lines(REPORT) if line.startswith("recording")]


def test_what_a_dataset_has_got_is_told() -> None:
    dataset = {
        "path": "data/monday",
        "episodes": 2,
        "rows": 100,
        "pictures": 300,
        "repeated": 40,
        "dropped": {"rows": 0, "pictures": 3},
        "complete": False,
    }
    words = (
        "dataset     data/monday: 2 episodes, 100 rows, 300 pictures, 40 of them repeated; "
        "dropped: 3 pictures; incomplete"
    )
    assert words in summary_lines({**REPORT, "dataset_recording": dataset})


def test_the_words_of_each_kind_of_event_are_shown_once() -> None:
    words = [
        {"name": "master", "text": "the master is away"},
        {"name": "velocity"},
        {"name": "master", "text": "the master is back"},
        {"name": "clock", "text": "it is behind"},
    ]

    lines = summary_lines({**REPORT, "event_counts": {"master": 2}, "events": words})

    at = lines.index("events      2 master")
    assert [line.strip() for line in lines[at + 1 : at + 3]] == [
        "the master is away",
        "it is behind",
    ]
