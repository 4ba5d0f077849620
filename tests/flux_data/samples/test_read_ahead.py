"""Threads make the same samples, in order, and errors surface at the right batch."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_core.errors import DataError
from flux_core.transforms import ResizeImages, ResizeImagesWithPad
from flux_data.samples.process_inputs import ProcessParquetInputs
from flux_data.samples.read_ahead import BATCHES_AHEAD, batches_ahead
from flux_data.samples.resize import resize_frame, torch_stretch
from flux_data.samples.windows import ParquetDataset

CAMERAS = tuple(f"observation.images.cam_{name}" for name in ("high", "left_wrist", "right_wrist"))


def config_of(root: Path) -> ParquetDataset.Config:
    inputs = ProcessParquetInputs(parquet_keys=("observation.state", "actions"), video_keys=CAMERAS)
    return ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs, ResizeImages(height=120, width=160)),
        action_key="action",
        window_start_idx=0,
    )


@pytest.mark.parametrize("name", ["v21", "v30c"])
def test_threads_decode_the_same_frames_as_one(shared_data: Path, name: str) -> None:
    dataset = config_of(shared_data / "lerobot" / name).build()
    draws = np.random.default_rng(0).integers(0, len(dataset), (6, 5)).tolist()
    alone = [[dataset[draw] for draw in batch] for batch in draws]
    side_by_side = [dataset.__getitems__(batch) for batch in draws]
    for found in (list(batches_ahead(dataset, draws, list, 4)), side_by_side):
        for left, right in zip(chain(*found), chain(*alone), strict=True):
            np.testing.assert_array_equal(left["images"], right["images"])
            np.testing.assert_array_equal(left["actions"], right["actions"])


class Counting:
    """Counts the requests; some draws fail."""

    def __init__(self, bad: int = -1) -> None:
        self.asked: list[int] = []
        self.bad = bad

    def __getitem__(self, draw: int) -> dict[str, Any]:
        self.asked.append(draw)
        if draw == self.bad:
            raise DataError(f"draw {draw}: broken")
        return {"draw": draw}


def test_an_error_is_raised_when_its_batch_comes() -> None:
    batches = batches_ahead(Counting(bad=5), [[0, 1], [2, 3], [4, 5], [6, 7]], list, 3)
    assert [sample["draw"] for sample in next(batches)] == [0, 1]
    assert [sample["draw"] for sample in next(batches)] == [2, 3]
    with pytest.raises(DataError, match="draw 5: broken"):
        next(batches)


def test_no_more_is_read_than_a_few_batches_ahead() -> None:
    source = Counting()
    batches = batches_ahead(source, ([i] for i in range(1000)), list, 2)
    next(batches)
    batches.close()
    assert max(source.asked) <= BATCHES_AHEAD


@pytest.mark.parametrize("shape", [(480, 640), (37, 53), (224, 224), (1080, 1920)])
def test_the_resize_is_pils_but_for_a_grey_level_here_and_there(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for resize in (
        ResizeImages(height=224, width=224),
        ResizeImagesWithPad(height=96, width=128),
    ):
        found = resize_frame(image, resize).astype(int)
        difference = np.abs(found - resize.resize(image))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.03


def test_the_resize_agrees_with_pil_itself(shared_data: Path) -> None:
    image = config_of(shared_data / "lerobot" / "v21").build()[40]["images"][0]
    expected = np.asarray(Image.fromarray(image).resize((64, 48), Image.Resampling.BILINEAR))
    assert np.abs(torch_stretch(image, 48, 64).astype(int) - expected).max() <= 1
