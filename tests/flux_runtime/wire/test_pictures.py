"""Pictures from strangers: every layout that clients send, and files made to do harm."""

from __future__ import annotations

import io
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from flux_runtime.wire import WireError, as_jpeg, as_picture

from .conftest import a_picture

PICTURE = a_picture(12, 16)


def a_file(image: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        stream, kind, **options
    )
    return stream.getvalue()


def a_png_of_size(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG with a header of any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def a_jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header has another size than its content."""
    content = a_file(PICTURE, "JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def refused(value: object, max_pixels: int = 4096 * 4096) -> WireError:
    with pytest.raises(WireError) as caught:
        as_picture(value, "images/cam_high", max_pixels)
    text = str(caught.value)
    assert text.startswith("images/cam_high: ")
    assert "\n" not in text
    assert len(text) < 400
    return caught.value


def test_a_picture_as_the_policy_takes_it_is_not_copied() -> None:
    found = as_picture(PICTURE, "cam")
    assert np.shares_memory(found, PICTURE)


def test_a_picture_with_its_channels_first_is_turned() -> None:
    found = as_picture(PICTURE.transpose(2, 0, 1), "cam")
    assert np.array_equal(found, PICTURE)
    assert found.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_from_0_to_1_give_the_bytes_that_they_were_made_of(dtype: type) -> None:
    every = np.arange(256 * 3).reshape(16, 16, 3).astype(np.uint8)
    assert np.array_equal(as_picture(every.astype(dtype) / dtype(255), "cam"), every)
    turned = every.transpose(2, 0, 1).astype(dtype) / dtype(255)
    assert np.array_equal(as_picture(turned, "cam"), every)


def test_half_floats_give_nearly_the_bytes_that_they_were_made_of() -> None:
    found = as_picture((PICTURE / 255).astype(np.float16), "cam")
    assert np.abs(found.astype(int) - PICTURE).max() <= 1


def test_floats_a_little_outside_are_clipped() -> None:
    found = as_picture(np.array([[[-0.0005, 0.5, 1.0005]]]), "cam")
    assert found.tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("turn", [bytes, lambda content: np.frombuffer(content, np.uint8)])
def test_files_are_decoded_as_pillow_decodes_them(turn: Callable[[bytes], Any]) -> None:
    assert np.array_equal(as_picture(turn(a_file(PICTURE, "PNG")), "cam"), PICTURE)
    content = a_file(PICTURE, "JPEG", progressive=True)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(as_picture(turn(content), "cam"), expected)


def test_our_jpeg_is_a_jpeg_of_the_picture() -> None:
    found = as_picture(as_jpeg(PICTURE // 8 + 100, 100), "cam")
    assert np.abs(found.astype(int) - (PICTURE // 8 + 100)).mean() < 4


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.float32),
        np.zeros((3, 0, 0), np.uint8),
        np.zeros(3, np.float32),
        np.zeros((), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), np.int8),
        np.zeros((4, 4, 3), bool),
        np.full((4, 4, 3), 2.0),
        np.full((4, 4, 3), -0.1),
        np.full((4, 4, 3), np.nan),
        np.full((4, 4, 3), np.inf),
        np.full((4, 4, 3), -np.inf, np.float16),
        np.full((4, 4, 3), 255, np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_pictures_are_refused(array: np.ndarray) -> None:
    assert refused(array).kind == "bad_picture"


@pytest.mark.parametrize("value", [None, 1, 0.5, True, "text", [[1]], {"a": 1}, np.uint8(3)])
def test_values_that_are_no_pictures_are_refused(value: object) -> None:
    assert refused(value).kind == "bad_picture"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_files_in_other_colours_are_refused_with_a_way_out(mode: str) -> None:
    image = Image.new(mode, (8, 8))
    content = a_file(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    if mode == "YCbCr":  # as in every JPEG of a colour camera
        assert as_picture(content, "cam").shape == (8, 8, 3)
    else:
        assert "convert" in str(refused(content))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PDF", "EPS"])
def test_files_of_other_kinds_are_refused(kind: str) -> None:
    assert refused(a_file(PICTURE, kind)).kind == "bad_picture"


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_nothing_but_the_start_of_a_file_is_refused(content: bytes) -> None:
    assert refused(content).kind == "bad_picture"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_file_is_refused_or_whole(kind: str) -> None:
    content = a_file(PICTURE, kind)
    whole = as_picture(content, "cam")
    refusals = 0
    for size in range(len(content)):
        try:
            found = as_picture(content[:size], "cam")
        except WireError as error:
            assert error.kind == "bad_picture"
            refusals += 1
        else:  # only a checksum or the mark of the end is missing
            assert np.array_equal(found, whole)
    assert refusals >= len(content) - 24


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_damaged_file_is_refused_or_a_picture(kind: str) -> None:
    content = a_file(PICTURE, kind)
    for place in range(len(content)):
        for value in (0x00, 0x7F, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            try:
                found = as_picture(damaged, "cam", 10_000)
            except WireError:
                continue
            assert found.ndim == 3
            assert found.size <= 30_000


@pytest.mark.parametrize(
    "content",
    [
        a_png_of_size(2**31 - 1, 2**31 - 1),
        a_png_of_size(100_000, 100_000),
        a_png_of_size(4097, 4096),
        a_jpeg_of_size(65_535, 65_535),
        a_jpeg_of_size(4097, 4096),
        np.broadcast_to(np.uint8(0), (4097, 4096, 3)),
        np.broadcast_to(np.uint8(0), (3, 4097, 4096)),
        np.broadcast_to(np.float32(0), (4097, 4096, 3)),
    ],
    ids=["png 2^62", "png 1e10", "png", "jpeg 2^32", "jpeg", "array", "turned", "floats"],
)
def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(content: Any) -> None:
    as_picture(a_file(PICTURE, "PNG"), "cam")  # imports
    tracemalloc.start()
    error = refused(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "pixels" in str(error)
    assert peak < 2**20


def test_the_limit_counts_for_arrays_and_files() -> None:
    assert as_picture(PICTURE, "cam", 192) is not None
    assert refused(PICTURE, 191).kind == "oversized"
    assert refused(a_file(PICTURE, "PNG"), 191).kind == "oversized"


def test_a_bomb_within_the_limit_takes_ten_bytes_per_pixel() -> None:
    side = 1024
    content = a_png_of_size(side, side, bytes(side * (1 + 3 * side)))
    assert len(content) < 4096
    tracemalloc.start()
    found = as_picture(content, "cam")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (side, side, 3)
    assert peak < 10 * side * side


def test_compressed_texts_within_a_png_are_bounded() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("bomb", "x" * 2**26, zip=True)
    content = a_file(PICTURE, "PNG", pnginfo=texts)
    assert len(content) < 2**17
    tracemalloc.start()
    assert refused(content).kind == "bad_picture"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    content = a_file(np.zeros((512, 512, 3), np.uint8), "JPEG", progressive=True)
    assert 5 < len(re.findall(b"\xff\xda", content)) < 20
    as_picture(content, "cam")
    scan = content[content.rindex(b"\xff\xda") : -2]
    bomb = content[:-2] + scan * 300 + content[-2:]
    assert "scans" in str(refused(bomb))


def test_a_float_picture_takes_three_times_its_memory_at_most() -> None:
    array = np.zeros((1000, 1000, 3), np.float64)
    tracemalloc.start()
    as_picture(array, "cam")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * array.nbytes
