"""The frame cache has the videos' pixels; a stale, damaged or partial one is never used."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from flux_core.errors import DataError
from flux_core.transforms import ResizeImages, ResizeImagesWithPad
from flux_data.commands.main import main
from flux_data.lerobot.dataset import open_lerobot
from flux_data.samples import pack as packing
from flux_data.samples.frame_cache import VERSION, cache_folder
from flux_data.samples.pack import pack_dataset, verify_cache
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.windows import ParquetDataset

from ..small_dataset import (
    ACTION,
    LENGTHS,
    STATE,
    TOP,
    Plant,
    edit_column,
    edit_info,
    write_top,
    write_v21,
)

RESIZE = ResizeImages(height=24, width=32)


@pytest.fixture
def root(shared_data: Path, tmp_path: Path) -> Path:
    """Copies the videos of two short episodes, so that tests can change them."""
    source, root = shared_data / "lerobot" / "v21", tmp_path / "dataset"
    shutil.copytree(source / "meta", root / "meta", copy_function=shutil.copyfile)
    episodes = root / "meta" / "episodes.jsonl"
    episodes.write_text("\n".join(episodes.read_text().splitlines()[:2]) + "\n")
    (root / "data").symlink_to(source / "data")
    for camera in ("cam_high", "cam_left_wrist"):
        folder = f"videos/chunk-000/observation.images.{camera}"
        (root / folder).mkdir(parents=True)
        for episode in range(2):
            name = f"{folder}/episode_{episode:06d}.mp4"
            shutil.copyfile(source / name, root / name)
    return root


CAMERAS = ("observation.images.cam_high", "observation.images.cam_left_wrist")


def dataset_of(root: Path, resize: ResizeImages = RESIZE, **settings: str) -> ParquetDataset:
    inputs = ProcessParquetInputs(parquet_keys=("observation.state", "actions"), video_keys=CAMERAS)
    config = ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs, resize),
        action_key="action",
        window_start_idx=0,
        **settings,
    )
    return config.build()


@pytest.mark.parametrize("kind", [ResizeImages, ResizeImagesWithPad])
def test_cached_frames_are_bit_identical_to_the_videos(
    kind: type[ResizeImages], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resize = kind(height=24, width=24)
    live = dataset_of(root, resize)
    expected = {index: live[index]["images"] for index in (0, 77, 149, 150, 299)}
    report = pack_dataset(root, resize, cameras=CAMERAS, workers=2)
    assert report["frames"] == 600 and report["bytes"] == 4 * (150 * 24 * 24 * 3 + 128)
    cached = dataset_of(root, resize)
    monkeypatch.setattr(
        "flux_data.samples.frame_source._shared_reader", None
    )  # no video may be opened
    for index, images in expected.items():
        np.testing.assert_array_equal(cached[index]["images"], images)


def test_jpeg_is_smaller_and_looks_the_same(root: Path) -> None:
    resize = ResizeImages(height=96, width=128)
    live = dataset_of(root, resize)[5]["images"].astype(float)
    announced: list[tuple[int, int, int]] = []
    report = pack_dataset(
        root,
        resize,
        encoding="jpeg",
        cameras=CAMERAS,
        announce=lambda *numbers: announced.append(numbers),
    )
    assert announced[0][:2] == (600, 600)
    assert announced[0][2] == pytest.approx(report["bytes"], rel=0.5)
    assert report["bytes"] < 0.4 * 600 * 96 * 128 * 3
    difference = np.abs(dataset_of(root, resize)[5]["images"] - live)
    assert difference.mean() < 2.0


def test_a_cache_of_another_size_or_camera_is_not_used(root: Path) -> None:
    pack_dataset(root, RESIZE, cameras=CAMERAS[:1])
    assert dataset_of(root).parts[0].frames._cache is None
    pack_dataset(root, RESIZE, cameras=CAMERAS)
    assert dataset_of(root).parts[0].frames._cache is not None
    assert dataset_of(root, ResizeImages(height=48, width=64)).parts[0].frames._cache is None
    assert dataset_of(root, ResizeImagesWithPad(height=24, width=32)).parts[0].frames._cache is None


def test_a_changed_video_makes_the_cache_stale(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flux.data")
    pack_dataset(root, RESIZE, cameras=CAMERAS)
    assert dataset_of(root).parts[0].frames._cache is not None
    assert "frames come from this cache, not from the videos" in caplog.text
    video = open_lerobot(root).video(CAMERAS[1], 1).path
    os.utime(video, ns=(1, 1))
    assert dataset_of(root).parts[0].frames._cache is None
    assert f"the videos of {CAMERAS[1]}, the data files or the fps have changed" in caplog.text
    assert "Run `flux-data pack` again" in caplog.text
    pack_dataset(root, RESIZE, cameras=CAMERAS)
    assert dataset_of(root).parts[0].frames._cache is not None


def test_an_interrupted_pack_resumes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, made = packing.pack_shard, []

    def dies_at_the_third(job: packing.PackJob) -> object:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(job.name)
        return original(job)

    monkeypatch.setattr(packing, "pack_shard", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        pack_dataset(root, RESIZE, cameras=CAMERAS)
    assert (
        dataset_of(root).parts[0].frames._cache is None
    )  # a folder without a manifest is not a cache
    monkeypatch.setattr(packing, "pack_shard", original)
    with (cache_folder(root, RESIZE, "raw") / "progress.jsonl").open("a") as file:
        file.write('{"name": "observation.ima')  # killed in the middle of a line
    left: list[int] = []
    pack_dataset(
        root, RESIZE, cameras=CAMERAS, announce=lambda frames, todo, size: left.append(todo)
    )
    assert left == [300]
    assert verify_cache(root, RESIZE)["frames"] == 600


def test_a_full_disk_leaves_no_half_shard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="cannot be written .*No space left"):
        pack_dataset(root, RESIZE, cameras=CAMERAS)
    written = [path.name for path in cache_folder(root, RESIZE, "raw").rglob("*.*")]
    assert not any(".npy" in name or ".partial" in name for name in written)


def test_damage_is_found(root: Path) -> None:
    pack_dataset(root, RESIZE, cameras=CAMERAS)
    shard = next(cache_folder(root, RESIZE, "raw").rglob("episode_000001.npy"))
    content = bytearray(shard.read_bytes())
    content[500] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="episode_000001.npy: is damaged"):
        verify_cache(root, RESIZE)
    shard.write_bytes(content[:1000])
    camera = CAMERAS.index(shard.parent.name)
    del camera
    with pytest.raises(DataError, match="expected .* bytes, got 1000. Run `flux-data pack` again"):
        dataset_of(root)[200]


def test_the_cache_may_be_in_another_folder(root: Path, tmp_path: Path) -> None:
    pack_dataset(root, RESIZE, cameras=CAMERAS, out=tmp_path / "fast")
    dataset = dataset_of(root, frame_cache=str(tmp_path / "fast"))
    assert dataset.parts[0].frames._cache is not None
    assert (
        dataclasses.replace(dataset.config, frame_cache=None).build().parts[0].frames._cache is None
    )


def test_the_command_packs_and_verifies(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = root / "meta" / "info.json"
    content = json.loads(info.read_text())
    del content["features"]["observation.images.cam_right_wrist"]
    info.write_text(json.dumps(content))
    arguments = ["pack", str(root), "--size", "24x32", "--workers", "1", "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["frames"] == 600 and "600 to be written" in captured.err
    assert main([*arguments, "--verify"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert main(["pack", str(root), "--size", "big"]) == 2


def test_a_damaged_manifest_is_named(root: Path) -> None:
    pack_dataset(root, RESIZE, cameras=CAMERAS)
    path = cache_folder(root, RESIZE, "raw") / "manifest.json"
    content = path.read_text()
    for damaged, message in (
        (content[:100], "expected JSON"),
        ("[]", r"expected an object, got \[\]"),
        (
            json.dumps({"version": VERSION, "encoding": "raw"}),
            "the key 'fingerprints' is missing. Run",
        ),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=f"{path}: {message}"):
            dataset_of(root)


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_damaged_frame_names_its_shard(encoding: Literal["raw", "jpeg"], root: Path) -> None:
    pack_dataset(root, RESIZE, cameras=CAMERAS, encoding=encoding)
    shards = cache_folder(root, RESIZE, encoding).rglob("episode_000001.*")
    shard = next(path for path in shards if path.parent.name == CAMERAS[0])
    shard.write_bytes(bytes(100) + shard.read_bytes()[100:])
    with pytest.raises(DataError, match=f"{shard}: .*damaged .*run `flux-data pack` again"):
        dataset_of(root)[150]


SMALL = ResizeImages(height=16, width=16)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A camera in videos and one in stored images, three short episodes."""
    write_v21(tmp_path / "small")
    return tmp_path / "small"


def small_dataset(root: Path) -> ParquetDataset:
    inputs = ProcessParquetInputs(parquet_keys=(STATE,), video_keys=(TOP,))
    config = ParquetDataset.Config(
        data_root_path=str(root), transforms=(inputs, SMALL), action_key=ACTION, window_start_idx=0
    )
    return config.build()


def images_of(root: Path) -> np.ndarray:
    dataset = small_dataset(root)
    return np.stack([dataset[index]["images"] for index in range(len(dataset))])


def add_a_picture(root: Path) -> None:
    """Lets every video go on for one picture after the last row."""
    for episode, length in enumerate(LENGTHS):
        write_top(root / f"videos/chunk-000/{TOP}/episode_{episode:06d}.mp4", length + 1)


def shift_times(root: Path) -> None:
    """Gives every row the time of the next picture."""
    for episode in range(len(LENGTHS)):
        name = f"data/chunk-000/episode_{episode:06d}.parquet"
        edit_column(name, "timestamp", lambda times: [t + 0.1 for t in times])(root)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def small_cache(root: Path) -> Path:
    return cache_folder(root, SMALL, "raw")


def test_a_cached_frame_is_the_one_at_its_rows_time(small: Path) -> None:
    add_a_picture(small)
    unshifted = images_of(small)
    shift_times(small)
    expected = images_of(small)
    assert not np.array_equal(expected, unshifted)
    pack_dataset(small, SMALL)
    assert small_dataset(small).parts[0].frames._cache is not None
    np.testing.assert_array_equal(images_of(small), expected)


@pytest.mark.parametrize("change", [shift_times, edit_info(fps=10.01)])
def test_changed_rows_or_rate_make_the_cache_stale(
    change: Plant, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_a_picture(small)
    pack_dataset(small, SMALL)
    assert small_dataset(small).parts[0].frames.kinds == "cache 16x16"
    change(small)
    assert small_dataset(small).parts[0].frames.kinds == "videos"
    assert main(["pack", str(small), "--size", "16", "--verify"]) == 1
    assert "is stale: the videos of" in capsys.readouterr().err
    expected = images_of(small)
    pack_dataset(small, SMALL)  # packs the current frames instead of keeping old shards
    assert small_dataset(small).parts[0].frames.kinds == "cache 16x16"
    np.testing.assert_array_equal(images_of(small), expected)


def test_a_damaged_or_deleted_shard_is_found_and_written_again(small: Path) -> None:
    pack_dataset(small, SMALL)
    first, second, *_ = sorted(small_cache(small).rglob("*.npy"))
    damage(first)
    second.unlink()
    with pytest.raises(DataError, match=r"000000.npy: is damaged \(2 shards of 6\). Run"):
        verify_cache(small, SMALL)
    announced: list[tuple[int, int, int]] = []
    report = pack_dataset(small, SMALL, announce=lambda *numbers: announced.append(numbers))
    assert announced[0][:2] == (2 * sum(LENGTHS), LENGTHS[0] + LENGTHS[1])
    assert verify_cache(small, SMALL) == report
    pack_dataset(small, SMALL, announce=lambda *numbers: announced.append(numbers))
    assert announced[1] == (2 * sum(LENGTHS), 0, report["bytes"])


def test_foreign_lines_and_leftovers_are_ignored(small: Path) -> None:
    pack_dataset(small, SMALL)
    folder, left = small_cache(small), list[int]()
    (folder / TOP / ".episode_000000.npy.partial-1").touch()
    with (folder / "progress.jsonl").open("a") as file:
        file.write('5\n[]\nnull\n{"a": 1}\n{"name": 3}\n{"name": "x/y"}\n{"fingerprints": 7}\n')
    pack_dataset(small, SMALL, announce=lambda frames, todo, size: left.append(todo))
    assert left == [0] and not list(folder.rglob("*.partial*"))


def test_out_is_suggested_if_a_cache_cannot_be_written(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"/dev/null/.*: cannot be written \(Not a dir.*Choose --o"):
        pack_dataset(small, SMALL, out=Path("/dev/null/x"))
    usage = shutil.disk_usage(small)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="expected 0.0 MB of free space, got 0.0. Choose --out, a"):
        pack_dataset(small, SMALL)
    assert not list(small_cache(small).rglob("*.npy"))


@pytest.mark.parametrize("name", ["progress.jsonl", "manifest.json"])
def test_a_disk_too_full_for_the_last_files_is_reported(name: str, small: Path) -> None:
    (small_cache(small) / name).mkdir(parents=True)  # as unwritable as on a full disk
    with pytest.raises(DataError, match=rf"{name}: cannot be written \(.*Choose --out"):
        pack_dataset(small, SMALL)
