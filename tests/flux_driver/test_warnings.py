"""What a driver has to say besides its readings reaches the events, also when a call fails."""

from __future__ import annotations

import time

import numpy as np
import pytest

from flux_driver.events import Events
from flux_driver.threads import StateReader


class Arm:
    """A driver of one joint, whose next state may fail."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, str]] = []
        self.is_broken = False

    def read_state(self) -> tuple[np.ndarray, float]:
        if self.is_broken:
            raise OSError("unplugged")
        return np.zeros(1), time.monotonic()

    def take_warnings(self) -> list[tuple[str, str]]:
        found, self.warnings = self.warnings, []
        return found


def test_warnings_become_events_that_are_counted_by_name() -> None:
    arm, events = Arm(), Events()
    reader = StateReader(arm, ["joint"], 0.02, events, 5)
    arm.warnings = [("master", "the master is away"), ("master", "the master is back")]

    reader.read()

    (event,) = events.due()
    assert (event["name"], event["text"], event["count"]) == ("master", "the master is back", 2)


def test_a_call_that_fails_keeps_no_warning_back() -> None:
    arm, events = Arm(), Events()
    reader = StateReader(arm, ["joint"], 0.02, events, 5)
    arm.is_broken, arm.warnings = True, [("cable", "the cable is loose")]

    with pytest.raises(OSError, match="unplugged"):
        reader.read()

    assert [event["name"] for event in events.due()] == ["cable"]
