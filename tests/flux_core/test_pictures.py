"""Thumbnails, and how alike pictures are under another light."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flux_core.pictures import (
    Reference,
    colour_shares,
    least_likeness,
    shrink,
    thumbnail,
    thumbnail_shape,
)


def picture(seed: int) -> np.ndarray:
    """A coloured room, where a grey ball lies somewhere else each time."""
    rng = np.random.default_rng(0)
    small = rng.uniform(20, 230, (6, 8, 3))
    image = small.repeat(20, axis=0).repeat(20, axis=1)
    row, column = np.random.default_rng(seed).integers(0, 100, 2)
    image[row : row + 20, column : column + 20] = 128
    return image.astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (240, 240), (720, 960), (10, 12)])
def test_a_thumbnail_of_whole_boxes_is_pillows(height: int, width: int) -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = thumbnail_shape(height, width)
    assert rows <= 24 and columns <= 32
    found = thumbnail(frame)
    assert found.shape == (rows, columns, 3)
    expected = Image.fromarray(frame).resize((columns, rows), Image.Resampling.BOX)
    np.testing.assert_allclose(found, np.asarray(expected), atol=1.0)


def test_a_smaller_frame_is_stretched() -> None:
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_allclose(shrink(frame, 4, 4), frame.repeat(2, axis=0).repeat(2, axis=1))


def test_light_changes_likeness_little_and_another_picture_much() -> None:
    reference = Reference.of([thumbnail(picture(seed)) for seed in range(6)])
    same = picture(99)
    brighter = np.clip(same * 1.3 * np.array([1.15, 1.0, 0.85]), 0, 255).astype(np.uint8)
    assert reference.likeness(same).shape > 0.8
    assert reference.likeness(brighter).shape > 0.7
    assert reference.likeness(brighter).colour > 0.8
    assert abs(reference.likeness(same[::-1, ::-1]).shape) < 0.4


def test_exchanged_channels_negate_the_likeness_in_colour() -> None:
    reference = Reference.of([thumbnail(picture(seed)) for seed in range(6)])
    found = reference.likeness(picture(99)[..., ::-1])
    assert found.colour < -0.8 and found.shape > 0.4


def test_the_most_unusual_picture_is_found() -> None:
    usual = [thumbnail(picture(seed)) for seed in range(5)]
    assert least_likeness(usual) > 0.6
    assert least_likeness([*usual, usual[0][::-1, ::-1]]) < 0.4


def test_a_constant_picture_is_like_nothing() -> None:
    grey = np.full((60, 80, 3), 90, np.uint8)
    assert Reference.of([thumbnail(grey)]).likeness(picture(0)).shape == 0.0
    assert colour_shares(grey) == (0.0, 0.0)
    assert colour_shares(np.zeros((60, 80, 3), np.uint8)) == (0.0, 0.0)
