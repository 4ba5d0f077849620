"""RealSense cameras, with a stand-in for `pyrealsense2`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flux_driver.cameras import CameraError
from flux_driver.clocks.device import DeviceClock

from .conftest import Open
from .fakes import FakeRealSense, until

CAMERA: dict[str, Any] = dict(type="realsense", serial_number_or_name="0123")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRealSense]:
    found = FakeRealSense()
    monkeypatch.setitem(sys.modules, "pyrealsense2", found)
    yield found
    found.images.put(None)


def image(value: int = 0) -> Any:
    return np.full((480, 640, 3), (value, 1, 2), np.uint8)


def test_a_stamp_of_the_wall_clock_is_mapped(opened: Open, library: FakeRealSense) -> None:
    library.images.put((image(), (time.time() - 0.05) * 1e3))
    expected_s = time.monotonic() - 0.05
    cameras = opened(**CAMERA, width=640, height=480, fps=30)
    cameras.start()
    assert cameras.read()["top"][1] == pytest.approx(expected_s, abs=0.005)
    assert library.started == [[("device", "0123"), ("color", 640, 480, "rgb8", 30)]]


def test_stamps_of_the_device_keep_their_distance(opened: Open, library: FakeRealSense) -> None:
    library.domain = 0
    library.images.put((image(1), 5000.0))
    cameras = opened(**CAMERA)
    cameras.start()
    first_s = cameras.read()["top"][1]
    assert first_s <= time.monotonic()
    library.images.put((image(2), 5000.0 + 0.25))
    until(lambda: cameras.read()["top"][0][0, 0, 0] == 2)
    assert 0 <= cameras.read()["top"][1] - first_s <= 0.00026


def test_the_offset_of_a_device_clock_is_that_of_the_fastest_image() -> None:
    clock = DeviceClock()
    arrivals = [(10.0, 110.03), (10.1, 110.102), (10.2, 110.25), (10.3, 110.34)]
    times = [clock.from_device(stamp_s, now_s) for stamp_s, now_s in arrivals]
    np.testing.assert_allclose(times, [110.03, 110.102, 110.202, 110.302])
    assert clock.from_device(3.0, 110.4) == 110.4  # set anew
    assert clock.from_device(3.1, 110.55) == pytest.approx(110.5)
    assert clock.from_device(43.0, 150.5) == 150.5  # the oldest offsets are forgotten


def test_bgr8_is_turned_to_rgb_and_a_name_is_enough(opened: Open, library: FakeRealSense) -> None:
    library.images.put((image(7), time.time() * 1e3))
    settings = dict(serial_number_or_name="Intel RealSense D435", color_format="bgr8")
    cameras = opened(**{**CAMERA, **settings})
    cameras.start()
    assert cameras.read()["top"][0][0, 0].tolist() == [2, 1, 7]
    assert library.started == [[("device", "0123"), ("color", "bgr8")]]


def test_an_unplugged_camera_is_started_again(
    opened: Open, library: FakeRealSense, reports: list[str]
) -> None:
    library.images.put((image(1), time.time() * 1e3))
    cameras = opened(**CAMERA)
    cameras.start()
    library.is_plugged_in = False
    library.images.put(None)
    until(lambda: len(reports) == 2)
    library.is_plugged_in = True
    library.images.put((image(2), time.time() * 1e3))
    until(lambda: cameras.read()["top"][0][0, 0, 0] == 2)
    assert [line.split("(")[0].split(",")[0] for line in reports] == [
        "camera top: no image ",
        "camera top: serial_number_or_name: expected one camera 0123",
        "camera top: delivers again",
    ]
    assert library.stopped == 1


def test_another_serial_number_or_rate_is_refused_with_both(
    opened: Open, library: FakeRealSense
) -> None:
    other = {**CAMERA, "serial_number_or_name": "999"}
    with pytest.raises(CameraError, match=r"Plugged in: 0123 \(Intel RealSense D435\)"):
        opened(**other).start()
    with pytest.raises(CameraError, match="fps: expected 60, the device gives 30"):
        opened(**CAMERA, width=640, height=480, fps=60).start()
    library.images.put((image(), time.time() * 1e3))
    with pytest.raises(CameraError, match="expected 320 x 240 pixels, the device gives 640 x 480"):
        opened(**CAMERA, width=320, height=240, fps=30).start()


def test_the_package_is_named_if_it_is_missing(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(CameraError, match="Install pyrealsense2 for /"):
        opened(**CAMERA).start()
