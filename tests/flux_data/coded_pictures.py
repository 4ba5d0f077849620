"""Tiny pictures that say which frame they are, and their videos.

A picture has four quadrants, each one digit of base 16 as a brightness: the camera's number, the
episode, and the frame in two digits. The digits are 16 levels apart, so they survive any codec.
"""

from __future__ import annotations

import functools
import io
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, BASE = 16, 16
DEPTH_12 = 256
"""The step between two digits of a depth picture, which has 12 bits."""

HEVC_SIDE = 64
"""x265 damages smaller moving pictures, and writes beyond its memory."""

CLOCK = 60_000
"""Ticks per second of a video whose stamps are no multiples of a period; MPEG-4 allows 65,535."""


class Code(NamedTuple):
    """What a picture says of itself; each number is below 16, the frame below 256."""

    camera: int
    episode: int
    frame: int


Codes = tuple[Code, ...]

NOBODY = Code(15, 15, 255)
"""A picture that belongs to no row."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a video is encoded."""

    codec: str = "libx264"
    gop: int = 1
    b_frames: int = 0
    side: int = SIDE
    is_depth: bool = False


def picture(code: Code, side: int = SIDE, step: int = BASE) -> NDArray[np.uint16]:
    """Returns the picture of a code, (side, side)."""
    digits = np.array([code.camera, code.episode, code.frame // BASE, code.frame % BASE])
    assert (digits < BASE).all() and (digits >= 0).all(), code
    levels = (digits * step + step // 2).reshape(2, 2).astype(np.uint16)
    return np.kron(levels, np.ones((side // 2, side // 2), np.uint16))


def code_in(image: NDArray[np.generic], step: int = BASE) -> Code:
    """Reads the code of a picture, (height, width) or (height, width, channels), of any size."""
    grey = np.asarray(image, np.float64)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    half, margin = grey.shape[0] // 2, max(grey.shape[0] // 8, 1)
    found: list[int] = []
    for top in (0, half):
        for left in (0, half):
            inner = grey[top + margin : top + half - margin, left + margin : left + half - margin]
            digit = (inner.mean() - step / 2) / step
            assert abs(digit - round(digit)) < 0.4, f"the picture's code is not readable: {digit}"
            found.append(round(digit))
    return Code(found[0], found[1], found[2] * BASE + found[3])


def png(code: Code, side: int = SIDE) -> bytes:
    """Returns the picture as a PNG of three channels."""
    return _encoded(Image.fromarray(np.repeat(_bytes(code, side)[:, :, None], 3, axis=2)), "PNG")


def depth_image(code: Code, form: str = "TIFF", side: int = SIDE) -> bytes:
    """Returns the picture as a depth image of 16 bits."""
    return _encoded(Image.fromarray(picture(code, side, DEPTH_12)), form)


def _bytes(code: Code, side: int) -> NDArray[np.uint8]:
    return picture(code, side).astype(np.uint8)


def _encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def write_coded_video(
    path: Path, codes: Codes, stamps_s: tuple[float, ...], fps: float, how: Encoding
) -> None:
    """Writes a video whose pictures have these codes and stamps, in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_video(codes, stamps_s, fps, how))


@functools.lru_cache(maxsize=4096)
def _video(
    codes: tuple[Code, ...], stamps_s: tuple[float, ...], fps: float, how: Encoding
) -> bytes:
    rate = Fraction(fps).limit_denominator(1001)
    periods = [stamp * rate for stamp in stamps_s]
    is_even = all(abs(period - round(period)) < 1e-6 for period in periods)
    base = 1 / rate if is_even else Fraction(1, CLOCK)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(how.codec, rate=rate, options=_options(how))
            stream.width = stream.height = how.side
            stream.pix_fmt = "gray12le" if how.is_depth else "yuv420p"
            stream.codec_context.time_base = base
            stream.codec_context.thread_count = 1
            for code, stamp_s in zip(codes, stamps_s, strict=True):
                frame = _frame(code, how)
                frame.pts, frame.time_base = round(Fraction(stamp_s) / base), base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def _options(how: Encoding) -> dict[str, str]:
    if how.codec == "libx265":
        return {
            "preset": "ultrafast",
            "x265-params": f"log-level=none:pools=1:frame-threads=1:lossless=1:keyint={how.gop}"
            f":bframes={how.b_frames}:scenecut=0",
        }
    options = {"g": str(how.gop), "crf": "4", "bf": str(how.b_frames), "qmin": "1", "qmax": "2"}
    if how.codec == "libx264":
        options |= {"preset": "ultrafast", "x264-params": "scenecut=0:b-adapt=0"}
    return options


def _frame(code: Code, how: Encoding) -> av.VideoFrame:
    if not how.is_depth:
        rgb = np.repeat(_bytes(code, how.side)[:, :, None], 3, axis=2)
        return av.VideoFrame.from_ndarray(rgb, format="rgb24")
    frame = av.VideoFrame(how.side, how.side, "gray12le")
    plane = frame.planes[0]
    rows = np.zeros((how.side, plane.line_size // 2), np.uint16)
    rows[:, : how.side] = picture(code, how.side, DEPTH_12)
    plane.update(rows.tobytes())
    return frame
