"""Augmented images and dropped states: reproducible, and never on the robot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flux_core.config import bind
from flux_core.deployment import ObservationTransforms
from flux_core.errors import ConfigError, DataError
from flux_core.transforms import (
    AugmentImages,
    DropStates,
    NormalizeStatesAndActions,
    Pipeline,
    PreparePromptWithState,
)

CAMERAS = ("observation.images.cam_high", "observation.images.cam_left_wrist")
STILL = dict(crop=1.0, max_rotation_deg=0.0, brightness=0.0, contrast=0.0, saturation=0.0)


def sample(seed: int = 0) -> dict[str, Any]:
    ramp = np.linspace(60, 190, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)
    images = np.stack([ramp, ramp[:, ::-1], np.zeros_like(ramp)])
    return {"images": images, "camera_names": CAMERAS, "rng": np.random.default_rng(seed)}


def test_equal_seeds_give_equal_images_and_different_seeds_different_ones() -> None:
    first, again, other = (AugmentImages()(sample(seed))["images"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_input_and_padded_cameras_are_not_changed() -> None:
    before = sample()
    copy = before["images"].copy()
    after = AugmentImages()(before)["images"]
    np.testing.assert_array_equal(before["images"], copy)
    assert not after[2].any() and after.shape == copy.shape and after.dtype == np.uint8


def test_without_any_setting_nothing_changes() -> None:
    given = sample()
    np.testing.assert_array_equal(AugmentImages(**STILL)(given)["images"], given["images"])


def test_wrist_cameras_are_coloured_but_not_moved() -> None:
    moved = AugmentImages(**STILL | dict(crop=0.8, max_rotation_deg=5.0))
    given = sample()
    images = moved(given)["images"]
    np.testing.assert_array_equal(images[1], given["images"][1])
    assert not np.array_equal(images[0], given["images"][0])


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_brightness_is_a_factor_within_its_bounds(spread: float) -> None:
    bright = AugmentImages(**STILL | dict(brightness=spread))
    given = sample()["images"][1].astype(float)
    factors = [bright(sample(seed))["images"][1].mean() / given.mean() for seed in range(200)]
    assert 1 - spread - 0.01 < min(factors) < 1 - 0.8 * spread
    assert 1 + 0.8 * spread < max(factors) < 1 + spread + 0.01


def test_the_robot_has_no_augmentation() -> None:
    with pytest.raises(DataError, match="expected a training sample with its random generator"):
        AugmentImages()({"images": sample()["images"]})
    tree = {"img_keys": ["cam_high"], "transforms": [{"type": "AugmentImages"}]}
    with pytest.raises(ConfigError, match=r"inference\.dataset\.transforms\.0: expected"):
        bind(ObservationTransforms, tree, "inference.dataset")


@pytest.mark.parametrize("settings", [dict(crop=0.0), dict(crop=1.5), dict(contrast=1.0)])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        bind(AugmentImages, settings, "transforms.3")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_states_is_dropped(share: float) -> None:
    states = np.linspace(0.5, 1.0, 14, dtype=np.float32)
    drop = DropStates(share=share)
    found = [
        drop({"states": states, "rng": np.random.default_rng(seed)})["states"]
        for seed in range(400)
    ]
    dropped = sum(not each.any() for each in found)
    assert abs(dropped / 400 - share) < 0.06 and states.all()
    assert all(np.array_equal(each, states) for each in found if each.any())
    again = drop({"states": states, "rng": np.random.default_rng(7)})["states"]
    np.testing.assert_array_equal(again, found[7])


def test_states_are_dropped_between_normalisation_and_prompt_and_never_on_the_robot() -> None:
    with pytest.raises(DataError, match="DropStates: .*; on the robot nothing is changed"):
        DropStates()({"states": np.ones(3, np.float32)})
    steps = (NormalizeStatesAndActions(), DropStates(), PreparePromptWithState())
    Pipeline(steps).check()
    with pytest.raises(ConfigError, match="expected NormalizeStatesAndActions before DropStates"):
        Pipeline((steps[1], steps[0])).check()
    with pytest.raises(ConfigError, match="expected DropStates before PreparePromptWithState"):
        Pipeline((steps[0], steps[2], steps[1])).check()
    with pytest.raises(ConfigError, match=r"share: expected 0 to 1, got 1\.5"):
        DropStates(share=1.5)
    tree = {"img_keys": ["cam_high"], "transforms": [{"type": "DropStates"}]}
    with pytest.raises(ConfigError, match=r"inference\.dataset\.transforms\.0: expected"):
        bind(ObservationTransforms, tree, "inference.dataset")
