"""Chunks that come late with real-time chunking, and an arm that slows itself down."""

from __future__ import annotations

import numpy as np

from .conftest import Outcomes
from .fake_arm.policy import SLOW
from .fake_arm.promises import assert_kept, assert_went_on, events, recorded
from .fake_arm.runs import Scenario

RTC = ("--mode", "rtc", "--hold-for", "0.6")
SCENARIOS = {
    "late chunk": Scenario(
        faults=[{"kind": "picture", "brightness": [SLOW], "at": 0.8}],
        arguments=RTC,
        delays=(0, 2, 4, 8),
    ),
    "speed slider at 0": Scenario(
        faults=[{"kind": "slider", "share": 0.0, "at": 0.8, "for": 1.0}],
        arguments=("--hold-for", "0.6"),
        environment={"FAKE_ARM_SLIDER": "1"},
    ),
}


def test_a_late_chunk_is_faded_in_and_later_ones_know_more_rows(outcome: Outcomes) -> None:
    late = outcome("late chunk")
    assert_kept(late)
    assert_went_on(late)
    rtc = late.report["rtc"]
    assert rtc["late"] >= 1, (rtc, late.report["event_counts"])
    assert rtc["late"] == len(events(late, "rtc_late"))
    delays = {int(rows) for rows in rtc["delays"]}
    assert delays <= {0, 2, 4, 8}
    assert max(delays) > 2, rtc
    value, limit = (events(late, "rtc_late")[0][name] for name in ("value", "limit"))
    assert isinstance(value, float) and isinstance(limit, float)
    assert value > limit


def test_an_arm_that_stops_by_itself_is_held_and_goes_on(outcome: Outcomes) -> None:
    slid = outcome("speed slider at 0")
    assert_kept(slid)
    assert_went_on(slid)
    assert not {"starved", "late_chunk", "held_too_long"} & slid.report["event_counts"].keys()
    arrays = recorded(slid)
    is_slid = arrays["speed"] == 0
    seconds = arrays["timestamp_s"][is_slid]
    assert 0.7 < seconds[-1] - seconds[0] < 1.3
    # At rest some time after it began, and moving again afterwards.
    settled = is_slid & (arrays["timestamp_s"] > seconds[0] + 0.6)
    assert np.ptp(arrays["command"][settled], axis=0).max() == 0
    assert np.ptp(arrays["command"][arrays["timestamp_s"] > seconds[-1]], axis=0).max() > 0.05
