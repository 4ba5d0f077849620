"""Video files as cameras, decoded by PyAV."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flux_core.errors import RobotError
from flux_driver.cameras import CameraError
from flux_runtime.realtime import DriverProcess

from .conftest import Open
from .fakes import until

FPS = 50
NUM_FRAMES = 6


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film whose frames get redder; the last one is shown for long."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 32, 16, "yuv420p", 4_000_000
        for index in range(NUM_FRAMES):
            image = np.full((16, 32, 3), (40 * index, 0, 0), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_video_is_played_by_its_stamps(opened: Open, film: Path, reports: list[str]) -> None:
    cameras = opened(type="video", path=str(film), fps=FPS, width=32, height=16)
    seen: dict[int, float] = {}
    cameras.start()

    def has_ended() -> bool:
        image, time_s = cameras.read()["top"]
        seen[round(float(image[..., 0].mean()) / 40)] = time_s
        assert image[..., 2].mean() < 30
        return bool(reports)

    until(has_ended)
    assert reports == [f"camera top: {film} has ended after 0.1 s"]
    assert max(seen) == NUM_FRAMES - 1
    first = min(seen)
    for index, time_s in seen.items():
        assert time_s - seen[first] == pytest.approx((index - first) / FPS, abs=1e-6)
    assert cameras.read()["top"][1] < time.monotonic()


def test_a_video_begins_again_if_asked_to(opened: Open, film: Path) -> None:
    cameras = opened(type="video", path=str(film), loop=True)
    cameras.start()
    _, first_s = cameras.read()["top"]
    until(lambda: cameras.read()["top"][1] - first_s > 2 * NUM_FRAMES / FPS)
    steps = (cameras.read()["top"][1] - first_s) * FPS
    assert steps == pytest.approx(round(steps), abs=1e-4)


def test_what_cannot_be_played_is_one_line(
    opened: Open, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CameraError, match="path: expected a video file, got missing.mp4"):
        opened(type="video", path="missing.mp4").start()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(bytes(1000))
    with pytest.raises(CameraError, match="broken.mp4 cannot be decoded"):
        opened(type="video", path=str(broken)).start()
    with pytest.raises(CameraError, match="expected 640 x 480 pixels, the device gives 32 x 16"):
        opened(type="video", path=str(film), width=640, height=480).start()
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(CameraError, match="Install av or opencv-python-headless for /"):
        opened(type="video", path=str(film)).start()


DRIVER = """
import time
import numpy as np
from flux_driver.cameras import open_cameras


class Arm:
    spec = {
        "name": "arm",
        "joint_names": ["joint"],
        "lower": [-1.0],
        "upper": [1.0],
        "max_velocity": [1.0],
        "units": ["rad"],
        "cameras": ["top"],
        "control_hz": 20.0,
    }

    def __init__(self, cameras):
        self._cameras = open_cameras(cameras)

    def connect(self):
        self._cameras.start()

    def read_state(self):
        return np.zeros(1, np.float32), time.monotonic()

    def read_frames(self, cameras):
        return self._cameras.read(cameras)

    def send(self, command, time_s):
        pass

    def stop(self, category):
        pass

    def close(self):
        self._cameras.close()
"""


def test_a_driver_in_a_process_of_its_own_reads_the_cameras_of_its_configuration(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "arm_with_cameras.py").write_text(DRIVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def start(**config: Any) -> DriverProcess:
        arguments = {"cameras": {"top": {"type": "video", "loop": True, **config}}}
        return DriverProcess.start("arm", target="arm_with_cameras:Arm", arguments=arguments)

    driver = start(path=str(film))
    try:
        driver.connect(["top"])
        first_ns = driver.observe(["top"])[2]["top"][1]
        until(lambda: driver.observe(["top"])[2]["top"][1] > first_ns)
        image, captured_ns = driver.observe(["top"])[2]["top"]
        assert image.shape == (16, 32, 3) and image[..., 2].mean() < 30
        assert 0 <= time.monotonic_ns() - captured_ns < 5e9
    finally:
        driver.close()
    with pytest.raises(RobotError, match="camera top: loops: no such key of a video camera"):
        start(path=str(film), loops=2)
