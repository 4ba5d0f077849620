"""Images kept in parquet columns: as bytes, or as files that the column names."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flux_core.errors import DataError
from flux_data.parquet.arrow import to_array
from flux_data.pictures.stored_image import StoredImage, decode_image
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import ACTION, LENGTHS, STATE, WRIST, WRIST_SIZE, png, write_v21

COLOURS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
GREY = COLOURS[:, :, 0]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of_16_bits(rgb: np.ndarray) -> bytes:
    """Encodes three channels of 16 bits, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = rgb.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in rgb)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def test_lossless_kinds_come_back_exactly() -> None:
    colours, grey = Image.fromarray(COLOURS), Image.fromarray(GREY)
    few = Image.fromarray(COLOURS // 128 * 255).quantize(8)
    same = np.repeat(GREY[:, :, None], 3, axis=2)
    opaque = np.dstack([COLOURS, np.full(GREY.shape, 255, np.uint8)])
    black_white = np.where(GREY > 127, 255, 0).astype(np.uint8)
    for data, expected in (
        (encoded(colours), COLOURS),
        (encoded(grey), same),
        (encoded(few), np.asarray(few.convert("RGB"))),
        (encoded(Image.fromarray(opaque)), COLOURS),
        (encoded(Image.fromarray(black_white).convert("1")), np.dstack([black_white] * 3)),
        (png_of_16_bits(COLOURS.astype(np.uint16) * 257), COLOURS),
    ):
        image = decode_image(data, "here")
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, expected)


def test_a_jpeg_is_nearly_unchanged_whatever_its_colours() -> None:
    smooth = np.linspace(40, 200, 24, dtype=np.uint8)[None, :, None].repeat(16, 0).repeat(3, 2)
    for mode in ("RGB", "L", "CMYK"):
        data = encoded(Image.fromarray(smooth).convert(mode), "JPEG", quality=95)
        assert np.abs(decode_image(data, "here").astype(int) - smooth).max() <= 4


def test_a_jpeg_taken_sideways_is_rotated() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    data = encoded(Image.fromarray(COLOURS), "JPEG", exif=exif, quality=100, subsampling=0)
    turned = np.rot90(COLOURS, -1).astype(int)
    image = decode_image(data, "here")
    assert image.shape == turned.shape and np.abs(image - turned).mean() < 2


DEPTH = np.full((16, 24), 3000, np.uint16)
HALF_SEEN = np.dstack([COLOURS, np.full(GREY.shape, 128, np.uint8)])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(DEPTH), r"expected 8 bits per channel, got mode I;16 \(a depth map\?\)"),
        (Image.fromarray(HALF_SEEN), r"expected an opaque image, got a transparent one \(RGBA\)"),
        (Image.fromarray(HALF_SEEN).convert("LA"), "expected an opaque image, .* one .LA"),
    ],
    ids=["16 bits", "RGBA", "LA"],
)
def test_images_that_no_camera_makes_are_refused(image: Image.Image, message: str) -> None:
    with pytest.raises(DataError, match=f"^here: {message}"):
        decode_image(encoded(image), "here")


def test_a_palette_with_a_transparent_colour_is_refused_where_it_is_used() -> None:
    palette = Image.fromarray(COLOURS).quantize(8)
    with pytest.raises(DataError, match="expected an opaque image"):
        decode_image(encoded(palette, transparency=0), "here")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damage_is_always_a_data_error(kind: str) -> None:
    """Whichever byte is wrong, the result is an image or one line that names the place."""
    whole = encoded(Image.fromarray(COLOURS), kind)
    rng, failed = np.random.default_rng(0), 0
    spoiled = [whole[:size] for size in range(0, len(whole), max(len(whole) // 40, 1))]
    for _ in range(150):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
        spoiled.append(bytes(data))
    for data in spoiled:
        try:
            decode_image(data, "episode 3, top, frame 7")
        except DataError as error:
            failed += 1
            assert str(error).startswith("episode 3, top, frame 7: ")
    assert failed > 20


def images_by_path(folder: Path, as_text: bool, absolute: bool) -> None:
    """Moves the bytes of the wrist camera to files that the column names."""
    for episode in range(len(LENGTHS)):
        path = folder / f"data/chunk-000/episode_{episode:06d}.parquet"
        table, names = pq.read_table(path), []
        for frame, image in enumerate(table[WRIST].to_pylist()):
            name = f"images/{WRIST}/episode_{episode:06d}/frame_{frame:06d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(image["bytes"])
            names.append(str(folder / name) if absolute else name)
        rows = names if as_text else [{"bytes": None, "path": name} for name in names]
        kind = (
            pa.string() if as_text else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
        at = table.schema.get_field_index(WRIST)
        pq.write_table(table.set_column(at, WRIST, pa.array(rows, kind)), path)


def dataset_of(root: Path) -> ParquetDataset:
    inputs = ProcessParquetInputs(parquet_keys=(STATE, "actions"), video_keys=(WRIST,))
    config = ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs,),
        action_key=ACTION,
        action_window_size=4,
        window_start_idx=0,
    )
    return config.build()


@pytest.mark.parametrize("as_text", [False, True], ids=["struct", "text"])
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_images_may_be_files_that_the_column_names(
    as_text: bool, absolute: bool, tmp_path: Path
) -> None:
    write_v21(tmp_path)
    expected = [sample["images"] for sample in map(dataset_of(tmp_path).__getitem__, range(21))]
    images_by_path(tmp_path, as_text, absolute)
    dataset = dataset_of(tmp_path)
    for index in range(len(dataset)):
        np.testing.assert_array_equal(dataset[index]["images"], expected[index])
    broken = tmp_path / f"images/{WRIST}/episode_000001/frame_000002.png"
    broken.write_bytes(png(2)[:30])
    place = rf"episode_000001.parquet: episode 1, {WRIST}, frame 2, {broken}: the image cannot be"
    with pytest.raises(DataError, match=place):
        dataset[8 + 2]
    broken.unlink()
    with pytest.raises(DataError, match=rf"{WRIST}, frame 2: the image file {broken} is missing"):
        dataset[8 + 2]


def test_bytes_take_precedence_over_the_path() -> None:
    rows = [{"bytes": png(1), "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    images = to_array(pa.chunked_array([pa.array(rows)]), "here")
    assert images[0] == png(1) and images[1] == "b.png"


def test_a_cache_of_images_counts_their_bytes(tmp_path: Path) -> None:
    write_v21(tmp_path)
    source = dataset_of(tmp_path).parts[0].source
    source.episode(0, [WRIST])
    assert source._cached_bytes == sum(len(png(frame)) for frame in range(LENGTHS[0]))


def test_a_stored_image_is_read_when_it_is_needed(tmp_path: Path) -> None:
    stored = StoredImage(data="later.png", root=tmp_path, where="here")
    (tmp_path / "later.png").write_bytes(png(9))
    assert stored.read().shape == (*WRIST_SIZE, 3) and (stored.read() == 9).all()
