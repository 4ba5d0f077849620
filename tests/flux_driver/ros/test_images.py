"""Images of ROS as arrays: encodings, padded rows, byte order, JPEG."""

from __future__ import annotations

import array
import io
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flux_driver.robot import DriverError
from flux_driver.ros.images import colour_image, compressed_image, depth_image

PICTURE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
GREY = PICTURE[..., 0]


def message(pixels: NDArray[np.generic], encoding: str, padding: int = 0) -> SimpleNamespace:
    """A sensor_msgs/Image."""
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    return SimpleNamespace(
        height=len(pixels),
        width=pixels.shape[1],
        step=rows.shape[1],
        encoding=encoding,
        is_bigendian=int(pixels.dtype.byteorder == ">"),
        data=rows.tobytes(),
    )


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[..., ::-1]),
        ("rgba8", np.dstack([PICTURE, GREY])),
        ("bgra8", np.dstack([PICTURE[..., ::-1], GREY])),
    ],
)
def test_red_comes_first_whatever_the_order_in_the_message(
    encoding: str, pixels: NDArray[np.uint8], padding: int
) -> None:
    found = colour_image(message(np.ascontiguousarray(pixels), encoding, padding))

    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, PICTURE)


def test_a_grey_image_has_three_equal_channels() -> None:
    found = colour_image(message(np.ascontiguousarray(GREY), "mono8", padding=2))

    np.testing.assert_array_equal(found, np.dstack([GREY] * 3))


def test_the_data_of_ros_2_is_an_array_instead_of_bytes() -> None:
    sent = message(PICTURE, "rgb8")
    sent.data = array.array("B", sent.data)

    np.testing.assert_array_equal(colour_image(sent), PICTURE)


def test_an_unknown_encoding_is_refused_by_name() -> None:
    with pytest.raises(DriverError, match="expected one of rgb8, bgr8, .*, got 'yuv422'"):
        colour_image(message(PICTURE, "yuv422"))


def test_an_image_with_too_few_bytes_is_refused() -> None:
    cut = message(PICTURE, "rgb8")
    cut.data = cut.data[:-1]

    with pytest.raises(DriverError, match="expected 4 rows of at least 18 bytes, got step 18 and"):
        colour_image(cut)


@pytest.mark.parametrize("order", ["<", ">"])
def test_depth_is_in_millimetres_in_either_byte_order(order: str) -> None:
    depth = np.array([[0, 1000], [65535, 258]], f"{order}u2")

    found = depth_image(message(depth, "16UC1", padding=4))

    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, depth.astype(np.uint16))


@pytest.mark.parametrize("order", ["<", ">"])
def test_depth_in_metres_becomes_millimetres_and_0_where_there_is_none(order: str) -> None:
    depth = np.array([[1.2345, np.nan, np.inf], [-1.0, 70.0, 65.499]], f"{order}f4")

    found = depth_image(message(depth, "32FC1"))

    np.testing.assert_array_equal(found, [[1234, 0, 0], [0, 0, 65499]])


def test_colour_is_no_depth() -> None:
    with pytest.raises(DriverError, match="expected one of 16UC1, mono16, 32FC1, got 'rgb8'"):
        depth_image(message(PICTURE, "rgb8"))


def encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def test_a_compressed_image_is_decoded_red_first() -> None:
    plain = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 20], np.uint8)
    sent = SimpleNamespace(format="rgb8; jpeg compressed bgr8", data=encoded(plain, "JPEG"))

    assert np.abs(compressed_image(sent).astype(int) - plain).max() < 4


def test_a_jpeg_made_of_rgb8_has_red_and_blue_swapped_back() -> None:
    plain = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 20], np.uint8)
    data = encoded(np.ascontiguousarray(plain[..., ::-1]), "JPEG")
    sent = SimpleNamespace(format="rgb8; jpeg compressed rgb8", data=data)

    assert np.abs(compressed_image(sent).astype(int) - plain).max() < 4


def test_a_png_is_exact() -> None:
    sent = SimpleNamespace(format="bgr8; png compressed bgr8", data=encoded(PICTURE, "PNG"))

    np.testing.assert_array_equal(compressed_image(sent), PICTURE)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(DriverError, match="expected a JPEG or PNG, got 5 bytes"):
        compressed_image(SimpleNamespace(format="jpeg", data=b"abcde"))
