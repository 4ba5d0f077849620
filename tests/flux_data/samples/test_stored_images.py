"""Images kept in parquet columns: as bytes, or as files that the column names."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flux_core.errors import DataError
from flux_core.transforms import ResizeImages, Transform
from flux_data.commands.main import main
from flux_data.lerobot.dataset import LeRobotDataset
from flux_data.parquet import image_rows
from flux_data.parquet.arrow import to_array
from flux_data.parquet.pages import NotSupported
from flux_data.parquet.value_index import ValueIndex
from flux_data.pictures.stored_image import StoredImage, decode_image
from flux_data.samples import frame_source
from flux_data.samples.pack import pack_dataset, verify_cache
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import (
    ACTION,
    LENGTHS,
    STATE,
    TOP,
    WRIST,
    WRIST_SIZE,
    png,
    write_v21,
    write_v30,
)

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


RESIZE = ResizeImages(height=8, width=12)


def wrist_of(
    root: Path, *transforms: Transform, cameras: tuple[str, ...] = (WRIST,)
) -> ParquetDataset:
    inputs = ProcessParquetInputs(parquet_keys=(STATE,), video_keys=cameras)
    config = ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs, *transforms),
        action_key=ACTION,
        window_start_idx=0,
    )
    return config.build()


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


# One row group per file, per episode and per three rows; all columns in small data pages or not.
LAYOUTS = {"file": None, "episode": 8, "rows": 3}


def v30_with(root: Path, rows: int | None) -> Path:
    """A v3.0 dataset whose row groups have `rows` rows, and whose images all differ."""
    write_v30(root)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    images = [{"bytes": png(index), "path": None} for index in range(len(table))]
    place = table.schema.get_field_index(WRIST)
    table = table.set_column(place, WRIST, pa.array(images, table.schema.field(WRIST).type))
    pq.write_table(table, path, row_group_size=rows or len(table))
    return root


def shades(dataset: ParquetDataset, order: list[int]) -> list[int]:
    return [int(dataset[index]["images"][0, 0, 0, 0]) for index in order]


@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("way", ["kept in memory", "indexed", "read in passing"])
def test_images_are_those_of_their_rows_whatever_the_row_groups(
    rows: int | None, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "kept in memory":
        monkeypatch.setattr(image_rows, "SMALL_GROUP_BYTES", 0)
        monkeypatch.setattr(image_rows, "MAX_CACHED_BYTES", 0)
    if way == "read in passing":
        monkeypatch.setattr(image_rows, "index_values", refuse)
    dataset = wrist_of(v30_with(tmp_path, rows))
    order = np.random.default_rng(0).permutation(sum(LENGTHS)).tolist()
    assert shades(dataset, order) == order
    assert shades(dataset, sorted(order)) == sorted(order)
    images = dataset.parts[0].source._images
    assert (len(images._groups) > 0) == (way == "kept in memory")
    assert (images._walk is not None) == (way == "read in passing")


def refuse(*_: object) -> ValueIndex:
    raise NotSupported("for the test")


def test_reading_one_image_decodes_one_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = wrist_of(v30_with(tmp_path, 3))
    read: list[object] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, keys, **rest: (
            read.append((group, keys)) or original(self, group, keys, **rest)
        ),
    )
    assert shades(dataset, [4, 3, 5, 20, 4]) == [4, 3, 5, 20, 4]
    assert read == [(1, [WRIST]), (6, [WRIST])]


def test_the_images_in_memory_stay_below_their_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = wrist_of(v30_with(tmp_path, 3))
    rows = dataset.parts[0].source._images
    monkeypatch.setattr(image_rows, "MAX_CACHED_BYTES", 700)
    sizes = []
    for index in range(sum(LENGTHS)):
        shades(dataset, [index])
        sizes.append(sum(group.nbytes for group in rows._groups.values()))
    assert max(sizes) <= 700 and len(rows._groups) > 1


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_stored_images_are_packed(
    encoding: Literal["raw", "jpeg"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = v30_with(tmp_path / "set", None)
    expected = [wrist_of(root, RESIZE)[i]["images"] for i in range(sum(LENGTHS))]
    report = pack_dataset(root, RESIZE, cameras=(WRIST,), encoding=encoding, workers=2)
    assert report["frames"] == sum(LENGTHS)
    assert verify_cache(root, RESIZE, encoding=encoding) == report
    dataset = wrist_of(root, RESIZE)
    assert dataset.parts[0].frames.kinds == "cache 8x12"
    monkeypatch.setattr(LeRobotDataset, "encoded_image", None)  # no parquet file may be read
    for index, images in enumerate(expected):
        difference = np.abs(dataset[index]["images"].astype(int) - images).max()
        assert difference <= (0 if encoding == "raw" else 2)


def test_a_cache_of_the_videos_alone_serves_the_videos(tmp_path: Path) -> None:
    write_v30(tmp_path)
    pack_dataset(tmp_path, RESIZE, cameras=(TOP,))
    both = wrist_of(tmp_path, RESIZE, cameras=(TOP, WRIST))
    assert both.parts[0].frames.kinds == "cache 8x12 and images"


def test_changed_rows_make_a_cache_of_images_stale(tmp_path: Path) -> None:
    root = v30_with(tmp_path, None)
    pack_dataset(root, RESIZE, cameras=(WRIST,))
    os.utime(root / "data/chunk-000/file-000.parquet", ns=(1, 1))
    assert wrist_of(root, RESIZE).parts[0].frames.kinds == "images"
    with pytest.raises(DataError, match=f"is stale: the images of {WRIST}"):
        verify_cache(root, RESIZE)


def test_large_row_groups_get_a_hint_to_pack(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = v30_with(tmp_path, None)
    assert main(["info", str(root)]) == 0
    assert "hint" not in capsys.readouterr().out
    monkeypatch.setattr(frame_source, "LARGE_GROUP_BYTES", 100)
    monkeypatch.setattr(frame_source, "MAX_CACHED_BYTES", 100)
    wrist_of(root)
    assert f"Run `flux-data pack {root}` before training" in caplog.text
    assert main(["info", str(root)]) == 0
    assert "flux-data pack" in capsys.readouterr().out.replace("\n", " ")
    caplog.clear()
    pack_dataset(root, RESIZE, cameras=(WRIST,))
    wrist_of(root, RESIZE)
    assert "flux-data pack" not in caplog.text
