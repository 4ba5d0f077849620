"""Cameras that tests open and that are closed afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flux_driver.cameras import Cameras, open_cameras, thread

from .fakes import FakeDevice, fake_cv2

Open = Callable[..., Cameras]


@pytest.fixture
def reports() -> list[str]:
    """What the cameras of a test report."""
    return []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, reports: list[str]) -> Iterator[Open]:
    """Returns what opens the camera `top` with some settings, without waits between attempts."""
    monkeypatch.setattr(thread, "WAITS_S", (0.0, 0.01))
    made: list[Cameras] = []

    def open_one(**config: Any) -> Cameras:
        made.append(open_cameras({"top": {"warmup_s": 0, **config}}, report=reports.append))
        return made[-1]

    yield open_one
    for cameras in made:
        cameras.close()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    """The only device of a fake OpenCV; its address is 'fake'."""
    found = FakeDevice()
    monkeypatch.setitem(sys.modules, "cv2", fake_cv2({"fake": found}))
    yield found
    found.unplug()
