"""Random changes of training samples: images as in openpi's `preprocess_observation`, states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ..errors import ConfigError, DataError
from .base import Sample
from .roles import Augmentation, Prompter, StateAugmentation
from .rule import rules


@dataclass(frozen=True, kw_only=True)
class AugmentImages(Augmentation):
    """Crops, rotates and recolours the images of a training sample; put it after the resize.

    Every camera's brightness, contrast and saturation are multiplied by up to 1 +- the setting.
    Cameras without `wrist` in their name are also cropped to `crop` of their sides at a random
    place, resized back, and rotated by up to `max_rotation_deg`. Padded cameras stay black. The
    random values depend only on the sample's seed, epoch and index.
    """

    rules = rules(
        "free",
        "augmentation is for training only",
        *("crop", "max_rotation_deg", "brightness", "contrast", "saturation"),
    )
    crop: float = 0.95
    max_rotation_deg: float = 5.0
    brightness: float = 0.3
    contrast: float = 0.4
    saturation: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"crop: expected a fraction of the side in (0, 1], got {self.crop}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name}: expected 0 <= {name} < 1, got {getattr(self, name)}")

    def __call__(self, sample: Sample) -> Sample:
        rng = self.generator(sample)
        if "camera_names" not in sample:
            raise DataError("AugmentImages: expected camera_names in the sample, got none")
        images = np.array(sample["images"])
        for index, name in enumerate(sample["camera_names"]):
            images[index] = self.augment(images[index], rng, is_wrist="wrist" in name)
        return {**sample, "images": images}

    def augment(
        self, image: NDArray[np.uint8], rng: np.random.Generator, *, is_wrist: bool
    ) -> NDArray[np.uint8]:
        """(height, width, 3) uint8 -> the same."""
        picture = Image.fromarray(image)
        if not is_wrist:
            picture = self._moved(picture, rng)
        for kind, spread in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            picture = kind(picture).enhance(rng.uniform(1.0 - spread, 1.0 + spread))
        return np.asarray(picture)

    def _moved(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = picture.size
        inner = int(width * self.crop), int(height * self.crop)
        left = int(rng.integers(0, width - inner[0] + 1))
        top = int(rng.integers(0, height - inner[1] + 1))
        box = (left, top, left + inner[0], top + inner[1])
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        angle = rng.uniform(-self.max_rotation_deg, self.max_rotation_deg)
        return picture.rotate(angle, Image.Resampling.BILINEAR)


@dataclass(frozen=True, kw_only=True)
class DropStates(StateAugmentation):
    """Sets the normalised state of a `share` of the training samples to zero.

    As soon as an arm moves, its joints say where it is going, and with it what it has seen. From
    scratch, a network that reads exact numbers (GR00T's state token) learns from them alone and
    never looks at the images, without which it cannot begin an episode.
    """

    rules = rules("free", "augmentation is for training only", "share")
    before = (Prompter,)
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"share: expected 0 to 1, got {self.share}")

    def __call__(self, sample: Sample) -> Sample:
        if self.generator(sample).random() >= self.share:
            return sample
        return {**sample, "states": np.zeros_like(sample["states"])}
