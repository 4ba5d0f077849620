"""Cameras behind OpenCV, which is replaced by one whose device does what a test wants."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_driver.cameras import CameraError, cameras, thread

from .conftest import Open
from .fakes import V4L2, FakeDevice, until

CAMERA: dict[str, Any] = dict(type="opencv", index_or_path="fake")


def test_images_are_rgb_and_the_newest_wins(opened: Open, device: FakeDevice) -> None:
    found = opened(**CAMERA)
    device.images.put(device.image((3, 2, 1)))
    before_s = time.monotonic()
    found.start()
    image, time_s = found.read()["top"]
    assert image.shape == (2, 4, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert image[0, 0].tolist() == [1, 2, 3]
    assert before_s <= time_s <= time.monotonic()
    for colour in (4, 5, 6):
        device.images.put(device.image((colour, 0, 0)))
    until(lambda: found.read(["top"])["top"][0][0, 0, 2] == 6)
    assert found.read()["top"][1] > time_s


def test_v4l2_stamps_are_capture_times(opened: Open, device: FakeDevice) -> None:
    captured_s = time.monotonic() - 0.04
    device.stamp = lambda: captured_s * 1e3
    device.images.put(device.image())
    found = opened(**CAMERA, backend=V4L2)
    found.start()
    assert found.read()["top"][1] == pytest.approx(captured_s, abs=1e-6)


@pytest.mark.parametrize("stamp_ms", [0.0, 1.7e12, -1.0, float("nan")])
def test_a_stamp_of_another_clock_is_replaced_by_the_time_before_the_image(
    opened: Open, device: FakeDevice, stamp_ms: float
) -> None:
    device.stamp = lambda: stamp_ms
    for _ in range(8):  # those that need no waiting may be old, and are passed over
        device.images.put(device.image())
    found = opened(**CAMERA, backend=V4L2)
    before_s = time.monotonic()
    found.start()
    assert before_s <= found.read()["top"][1] <= time.monotonic()


def test_an_unplugged_camera_is_reported_and_opened_again(
    opened: Open, device: FakeDevice, reports: list[str]
) -> None:
    found = opened(**CAMERA)
    device.images.put(device.image())
    found.start()
    _, first_s = found.read()["top"]
    device.unplug()
    until(lambda: device.openings > 3)
    assert found.read()["top"][1] == first_s
    device.images.put(device.image((9, 9, 9)))
    device.is_plugged_in = True
    until(lambda: found.read()["top"][0][0, 0, 0] == 9)
    assert [line.split(",")[0] for line in reports] == [
        "camera top: no image. Is it unplugged?",
        "camera top: index_or_path: OpenCV cannot open 'fake'. It does not exist",
        "camera top: delivers again",
    ]


def test_a_camera_that_comes_back_with_another_size_is_not_used(
    opened: Open, device: FakeDevice, reports: list[str]
) -> None:
    found = opened(**CAMERA)
    device.images.put(device.image())
    found.start()
    device.unplug()
    until(lambda: reports)
    device.width = 8
    device.plug_in()
    device.images.put(device.image())
    until(lambda: any("expected (2, 4, 3) as before, got (2, 8, 3)" in line for line in reports))
    assert found.read()["top"][0].shape == (2, 4, 3)


def test_a_damaged_image_is_passed_over(
    opened: Open, device: FakeDevice, reports: list[str]
) -> None:
    for image in ("damaged", device.image()):
        device.images.put(image)
    opened(**CAMERA).start()
    assert (device.openings, reports) == (1, [])


@pytest.mark.parametrize(
    "asked, line",
    [
        (dict(width=640, height=480), "expected 640 x 480 pixels, the device gives 4 x 2"),
        (dict(fps=60), "fps: expected 60, the device gives 30"),
        (dict(fourcc="MJPG"), "fourcc: expected MJPG, the device gives 'YUYV'"),
    ],
)
def test_a_device_that_gives_something_else_is_refused_with_both(
    opened: Open, device: FakeDevice, asked: dict[str, Any], line: str
) -> None:
    device.obeys = False
    device.images.put(np.zeros((2, 4, 3), np.uint8))
    with pytest.raises(CameraError, match=f"camera top: .*{line}"):
        opened(**CAMERA, **asked).start()
    assert not device.is_open


def test_size_rate_and_format_are_set(opened: Open, device: FakeDevice) -> None:
    asked = dict(width=6, height=5, fps=60, fourcc="MJPG", rotation=-90)
    found = opened(**CAMERA, **asked)
    device.images.put(np.zeros((6, 5, 3), np.uint8))
    found.start()
    assert (device.width, device.height, device.fps) == (5, 6, 60)
    assert found.read()["top"][0].shape == (5, 6, 3)


@pytest.mark.parametrize(
    "rotation, corner", [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))]
)
def test_images_are_turned_clockwise(
    opened: Open, device: FakeDevice, rotation: int, corner: tuple[int, int]
) -> None:
    image = device.image((0, 0, 0))
    image[0, 0] = 255
    device.images.put(image)
    found = opened(**CAMERA, rotation=rotation)
    found.start()
    turned = found.read()["top"][0]
    assert turned[corner].tolist() == [255] * 3 and turned.sum() == 3 * 255
    assert turned.flags.c_contiguous


def test_a_rate_below_the_one_that_was_asked_for_is_reported_once(
    opened: Open, device: FakeDevice, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "RATE_WINDOW_S", 0.5)
    times = iter(time.monotonic() - 0.9 + np.arange(9) / 10)
    device.stamp = lambda: 1e3 * next(times)
    for _ in range(9):
        device.images.put(device.image())
    opened(**CAMERA, backend=V4L2, fps=30).start()
    until(lambda: device.images.empty())
    until(lambda: reports)
    assert len(reports) == 1
    assert reports[0].startswith("camera top: expected 30 images per second, got 10.0.")


def test_a_camera_without_images_is_refused_in_time_and_left_behind(
    opened: Open, device: FakeDevice, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cameras, "CLOSE_TIMEOUT_S", 0.01)
    with pytest.raises(CameraError, match="camera top: expected an image within 0.01 s, got none"):
        opened(**CAMERA).start(timeout_s=0.01)
    assert reports == ["camera top: hangs, and is left behind"]


def test_a_missing_library_is_one_line_with_the_package(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(CameraError, match="Install opencv-python-headless for /") as error:
        opened(**CAMERA).start()
    assert "\n" not in str(error.value)


def test_a_device_that_is_not_there_is_named_before_it_is_opened(
    opened: Open, device: FakeDevice, tmp_path: Path
) -> None:
    with pytest.raises(CameraError, match=r"/dev/video987 does not exist. Plugged in: "):
        opened(type="opencv", index_or_path=987).start()
    film = tmp_path / "film.mp4"
    film.touch()
    with pytest.raises(CameraError, match="is a file, .* Use type: video"):
        opened(type="opencv", index_or_path=str(film)).start()
