"""Films episodes of a simulated robot as H.264, which every browser plays."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robots import SimulatedRobot

FRAMES_PER_S = 25
_MAIN_SCALE = 2


class VideoRecorder:
    """Renders every camera at 25 frames per second and encodes the pictures as they arrive.

    The first camera is shown large, the others in a column beside it.
    """

    def __init__(self, robot: SimulatedRobot, *, control_hz: float) -> None:
        self._robot = robot
        self._ticks_per_frame = max(1, round(control_hz / FRAMES_PER_S))
        self._encoder = H264Encoder(Fraction(round(control_hz), self._ticks_per_frame))

    def on_tick(self, step: int) -> None:
        """Takes a picture if one is due at this tick."""
        if step % self._ticks_per_frame == 0:
            cameras = self._robot.spec.cameras
            images = self._robot.render(cameras)
            self._encoder.add(compose([images[name] for name in cameras]))

    def finish(self) -> bytes:
        """Returns the MP4 file."""
        return self._encoder.finish()


def compose(images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Enlarges the first picture to twice its size and puts the others in a column beside it.

    Args:
        images: (height, width, 3) uint8 RGB, all of one size.

    Returns:
        (H, W, 3) uint8 RGB with even H and W; the column is cut or padded to the large picture.
    """
    import av

    height, width = images[0].shape[:2]
    large_size = (width * _MAIN_SCALE, height * _MAIN_SCALE)
    large = av.VideoFrame.from_ndarray(np.ascontiguousarray(images[0]), format="rgb24").reformat(
        *large_size, interpolation="BICUBIC"
    )
    canvas_width = large_size[0] + (width if len(images) > 1 else 0)
    rows = max(_MAIN_SCALE, len(images) - 1)
    canvas = np.zeros((rows * height, canvas_width, 3), np.uint8)
    canvas[: large_size[1], : large_size[0]] = large.to_ndarray(format="rgb24")
    for row, image in enumerate(images[1:]):
        canvas[row * height : (row + 1) * height, large_size[0] :] = image
    return canvas[: canvas.shape[0] // 2 * 2, : canvas.shape[1] // 2 * 2]


class H264Encoder:
    """Encodes pictures to an MP4 in memory: H.264, yuv420p."""

    def __init__(self, rate: Fraction) -> None:
        import av

        self._rate = rate
        self._buffer = io.BytesIO()
        self._container: Any = av.open(self._buffer, "w", format="mp4")
        self._stream: Any = None

    def add(self, image: NDArray[np.uint8]) -> None:
        """Appends (height, width, 3) uint8 RGB, with even sides, of the first picture's size."""
        import av

        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.height, self._stream.width = image.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "23", "preset": "veryfast"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> bytes:
        """Returns the file; it is empty if no picture was added."""
        if self._stream is None:
            return b""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._buffer.getvalue()
