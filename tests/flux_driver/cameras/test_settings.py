"""What a user may write for a camera."""

from __future__ import annotations

from typing import Any

import pytest

from flux_driver.cameras import CameraError, open_cameras

USB: dict[str, Any] = dict(type="opencv", index_or_path=0)


@pytest.mark.parametrize(
    "config, line",
    [
        (dict(index_or_path=0), "type: expected one of opencv, intelrealsense, video, realsense"),
        (dict(type="zed"), "type: expected one of .*, got 'zed'"),
        (dict(type="opencv"), "index_or_path: expected a value, got none"),
        (dict(type="video"), "path: expected a value, got none"),
        ({**USB, "serial_number_or_name": 1}, "serial_number_or_name: no such key of a opencv"),
        ({**USB, "rotation": 45}, "rotation: expected 0 or 90 or 180 or 270 or -90, got 45"),
        ({**USB, "color_mode": "bgr"}, "color_mode: expected rgb, got 'bgr'"),
        ({**USB, "fourcc": "MJPEG"}, "fourcc: expected four characters such as MJPG"),
        ({**USB, "fps": 0}, "fps: expected a number above 0, got 0"),
        ({**USB, "fps": float("nan")}, "fps: expected a number above 0, got nan"),
        ({**USB, "width": 640.5}, "width: expected a whole number above 0, got 640.5"),
        ({**USB, "warmup_s": -1}, "warmup_s: expected a number that is not negative, got -1"),
        ({**USB, "backend": "V4L2"}, "backend: expected the number of an OpenCV backend"),
        (dict(type="realsense", serial_number_or_name="1", fps=30), "expected all three or none"),
        (
            dict(type="realsense", serial_number_or_name="1", use_depth=True),
            "use_depth: expected False, got True",
        ),
        (3, "expected a mapping with a type, got 3"),
    ],
)
def test_a_wrong_setting_is_named_with_the_camera(config: Any, line: str) -> None:
    with pytest.raises(CameraError, match=f"^camera top: .*{line}"):
        open_cameras({"top": config})


def test_keys_of_lerobot_are_taken_as_they_are() -> None:
    usb = dict(color_mode="rgb", rotation=-90, warmup_s=1, backend=0, fourcc=None, fps=None)
    intel = dict(serial_number_or_name="0123", width=640, height=480, fps=30, use_depth=False)
    cameras = open_cameras({"top": {**USB, **usb}, "wrist": {"type": "intelrealsense", **intel}})
    assert cameras.names == ("top", "wrist")


def test_one_device_is_not_two_cameras() -> None:
    with pytest.raises(CameraError, match="camera left: 0 is camera right already"):
        open_cameras({"right": USB, "left": USB})


def test_cameras_are_read_by_name_after_they_were_started() -> None:
    cameras = open_cameras({"top": USB})
    with pytest.raises(CameraError, match=r"camera top: expected start\(\) before read\(\)"):
        cameras.read()
    with pytest.raises(CameraError, match="camera wrist: expected one of top"):
        cameras.read(["wrist"])
    cameras.close()
