"""Random changes of GR00T's training images, as NVIDIA makes them: a crop, then other colours.

    transforms=[..., NvidiaShiftImages(), NvidiaResizeImages(), NvidiaJitterColors(), ...]

All cameras of a sample get the same random values, which depend only on its seed, epoch and index.
NVIDIA keeps floats between the three steps. Here they are bytes, which differs by up to one level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..base import Sample
from ..images import check_image
from ..roles import Augmentation, ImageResize
from ..rule import Rule, rules

_GREY = np.array([0.2989, 0.587, 0.114], np.float32)
"""torchvision's weights of red, green and blue in a grey value."""


@dataclass(frozen=True, kw_only=True)
class NvidiaShiftImages(Augmentation):
    """Moves every picture so that `NvidiaResizeImages`, which follows it, cuts out another part
    than the centre; every place is as likely as any other.

    `crop` must be that of `NvidiaResizeImages`, which cuts off the black that is moved in.
    """

    rules: ClassVar[Mapping[str, Rule]] = rules("free", "augmentation is for training only", "crop")
    needs_recorded_images = True
    before = (ImageResize,)
    crop: float = 0.95

    def __post_init__(self) -> None:
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"crop: expected a share above 0 and up to 1, got {self.crop}")

    def __call__(self, sample: Sample) -> Sample:
        across, down = self.generator(sample).random(2)
        return {**sample, "images": [self._moved(x, down, across) for x in sample["images"]]}

    def _moved(self, image: NDArray[np.uint8], down: float, across: float) -> NDArray[np.uint8]:
        check_image(image)
        moved = np.zeros_like(image)
        shifts = (
            self._shift(side, share)
            for side, share in zip(image.shape[:2], (down, across), strict=True)
        )
        targets, sources = zip(*(_overlap(shift) for shift in shifts), strict=True)
        moved[targets] = image[sources]
        return moved

    def _shift(self, side: int, share: float) -> int:
        """Returns how far the part that is cut out begins after the centre's."""
        spare = side - max(int(side * self.crop), 1)
        return int(share * (spare + 1)) - round(spare / 2)


def _overlap(shift: int) -> tuple[slice, slice]:
    if shift >= 0:
        return slice(None, -shift or None), slice(shift, None)
    return slice(-shift, None), slice(None, shift)


@dataclass(frozen=True, kw_only=True)
class NvidiaJitterColors(Augmentation):
    """Changes brightness, contrast, saturation and hue, in a random order; put it after the resize.

    The first three are multiplied by up to 1 +- the setting, and colours move by up to `hue` of
    their circle.
    """

    rules: ClassVar[Mapping[str, Rule]] = rules(
        "free",
        "augmentation is for training only",
        *("brightness", "contrast", "saturation", "hue"),
    )
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5
    hue: float = 0.08

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        if not 0.0 <= self.hue <= 0.5:
            raise ConfigError(f"hue: expected 0 to 0.5, got {self.hue}")

    def __call__(self, sample: Sample) -> Sample:
        rng = self.generator(sample)
        spreads = (self.brightness, self.contrast, self.saturation)
        values = (
            *(rng.uniform(1.0 - x, 1.0 + x) for x in spreads),
            rng.uniform(-self.hue, self.hue),
        )
        steps = list(zip((_brighter, _contrasted, _saturated, _turned), values, strict=True))
        order = rng.permutation(len(steps))
        images = [_changed(image, [steps[i] for i in order]) for image in sample["images"]]
        return {**sample, "images": np.stack(images)}


Change = Callable[[NDArray[np.float32], float], NDArray[np.float32]]
"""(h, w, 3) from 0 to 1, and how much -> the same."""


def _changed(image: NDArray[np.uint8], steps: list[tuple[Change, float]]) -> NDArray[np.uint8]:
    check_image(image)
    values = image.astype(np.float32) / np.float32(255.0)
    for change, amount in steps:
        values = change(values, amount)
    return (values * np.float32(255.0)).astype(np.uint8)


def _mixed(
    values: NDArray[np.float32], others: NDArray[np.float32] | float, share: float
) -> NDArray[np.float32]:
    return np.clip(share * values + (1.0 - share) * others, 0.0, 1.0, dtype=np.float32)


def _brighter(values: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    return _mixed(values, 0.0, factor)


def _contrasted(values: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    return _mixed(values, float((values @ _GREY).mean()), factor)


def _saturated(values: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    return _mixed(values, (values @ _GREY)[..., None], factor)


def _turned(values: NDArray[np.float32], turn: float) -> NDArray[np.float32]:
    """Moves colours around their circle: in HSV, H becomes H + turn."""
    top, bottom = values.max(axis=-1), values.min(axis=-1)
    reach = top - bottom
    divisor = np.where(reach == 0.0, 1.0, reach)
    red, green, blue = np.moveaxis((top[..., None] - values) / divisor[..., None], -1, 0)
    is_red, is_green = top == values[..., 0], top == values[..., 1]
    sixths = np.where(is_red, blue - green, np.where(is_green, 2 + red - blue, 4 + green - red))
    sixths = np.where(reach == 0.0, 0.0, sixths) + 6.0 * turn
    # Each channel is highest for a third of the circle, lowest for a third, and in between a line.
    channels = [np.abs((sixths + away) % 6.0 - 3.0) - 1.0 for away in (0.0, 4.0, 2.0)]
    shares = np.clip(np.stack(channels, axis=-1), 0.0, 1.0)
    return (bottom[..., None] + reach[..., None] * shares).astype(np.float32)
