"""NVIDIA's training images: another crop, other colours, the same ones for all cameras."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from flux_core.config import bind
from flux_core.errors import ConfigError, DataError
from flux_core.transforms import NvidiaJitterColors, NvidiaResizeImages, NvidiaShiftImages, Pipeline

SIZE = (40, 60)
NONE = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def sample(seed: int, *images: NDArray[np.uint8]) -> dict[str, Any]:
    return {"images": list(images), "rng": np.random.default_rng(seed)}


def test_each_part_of_nvidias_size_is_cut_out_as_often_as_any_other() -> None:
    inner = (38, 57)
    image = picture()
    same = NvidiaResizeImages(height=inner[0], width=inner[1])  # of which only the crop is left
    parts = {
        image[top : top + inner[0], left : left + inner[1]].tobytes(): (top, left)
        for top in range(3)
        for left in range(4)
    }
    counts = dict.fromkeys(parts.values(), 0)
    generator = np.random.default_rng(4)
    for _ in range(240):
        moved = NvidiaShiftImages()({"images": [image, image], "rng": generator})["images"]
        np.testing.assert_array_equal(moved[0], moved[1])
        cut = same.resize(moved[0]).astype(np.int64)
        found = [
            place
            for part, place in parts.items()
            if np.abs(np.frombuffer(part, np.uint8).reshape(*inner, 3) - cut).max() <= 1
        ]
        assert len(found) == 1
        counts[found[0]] += 1
    assert min(counts.values()) > 5 and max(counts.values()) < 45  # 20 each


def test_cameras_of_different_sizes_are_moved_alike() -> None:
    images = [picture(size=(100, 100)), picture(size=(200, 200))]
    small, large = NvidiaShiftImages(crop=0.5)(sample(3, *images))["images"]
    blank = [np.flatnonzero(~x.any(axis=(1, 2))).size / len(x) for x in (small, large)]
    assert small.shape == (100, 100, 3) and abs(blank[0] - blank[1]) < 0.02


@pytest.mark.parametrize(
    ("setting", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_colours_are_changed_as_pil_changes_them(setting: str, enhance: Any) -> None:
    image = picture(1)
    step = NvidiaJitterColors(**NONE | {setting: 0.4})
    enhanced = [
        np.asarray(enhance(Image.fromarray(image)).enhance(factor)).astype(np.int64)
        for factor in np.linspace(0.6, 1.4, 201)
    ]
    found = [step(sample(seed, image))["images"][0].astype(np.int64) for seed in range(4)]
    for each in found:
        # PIL rounds the grey value, NVIDIA cuts the result.
        assert min(np.abs(each - one).max() for one in enhanced) <= 2
    assert max(np.abs(each - image).max() for each in found) > 20


def test_hue_turns_as_in_the_standard_library() -> None:
    image = picture(2)
    image[0, :3] = [[0, 0, 0], [255, 255, 255], [90, 90, 90]]  # without a hue
    found = NvidiaJitterColors(**NONE | {"hue": 0.3})(sample(7, image))["images"][0]
    turn = np.random.default_rng(7)
    for _ in range(3):
        turn.uniform()  # brightness, contrast, saturation
    amount = turn.uniform(-0.3, 0.3)
    for pixel, got in zip(image.reshape(-1, 3)[:400], found.reshape(-1, 3)[:400], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255.0))
        expected = 255.0 * np.array(colorsys.hsv_to_rgb((hue + amount) % 1.0, saturation, value))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1.01)


def test_all_cameras_get_the_same_colours_and_equal_seeds_give_equal_images() -> None:
    image = picture()
    first = NvidiaJitterColors()(sample(1, image, image, np.zeros_like(image)))["images"]
    np.testing.assert_array_equal(first[0], first[1])
    assert not first[2].any() and first.shape == (3, *SIZE, 3)
    again, other = (NvidiaJitterColors()(sample(seed, image))["images"] for seed in (1, 2))
    np.testing.assert_array_equal(first[:1], again)
    assert not np.array_equal(again, other)


def test_they_are_for_training_and_belong_around_the_resize() -> None:
    resize = NvidiaResizeImages(height=20, width=20)
    pipeline = Pipeline((NvidiaShiftImages(), resize, NvidiaJitterColors()))
    pipeline.check()
    assert pipeline.resize_at_decode is None  # the crop needs the recorded pictures
    assert Pipeline((resize, NvidiaJitterColors())).resize_at_decode is resize
    assert pipeline(sample(1, picture(), picture()))["images"].shape == (2, 20, 20, 3)
    with pytest.raises(ConfigError, match="expected NvidiaShiftImages before NvidiaResizeImages"):
        Pipeline((resize, NvidiaShiftImages())).check()
    with pytest.raises(ConfigError, match="runs in training only"):
        pipeline.check_on_robot()
    for step in (NvidiaShiftImages(), NvidiaJitterColors()):
        with pytest.raises(DataError, match="expected a training sample"):
            step({"images": [picture()]})


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (NvidiaShiftImages, {"crop": 0.0}, "crop: expected a share"),
        (NvidiaJitterColors, {"contrast": 1.5}, "contrast: expected 0 to 1"),
        (NvidiaJitterColors, {"hue": 0.6}, "hue: expected 0 to 0.5"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bind(kind, settings)
