"""Roles of transforms. Code outside this package asks for a role, never for a concrete class.

A custom transform derives from its role and overrides what the role leaves open. The role of a
transform that changes the units of states and actions is `UnitStep`, in `units`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError, DataError
from ..norm_stats import NormType
from ..robots.embodiments import embodiment_number
from ..tokenizers import ByteTokenizer, PretrainedTokenizer, Tokenizer
from .base import ModelInputs, Sample, Transform
from .gr00t.dimension_rules import KeyRule, StateKeyRule

Stretch = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]
"""(h, w, 3) uint8, height, width -> (height, width, 3) uint8."""


def pil_stretch(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The resize of openpi and of the robot's runtime: PIL's antialiased bilinear filter."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


class DatasetInputs(Transform):
    """The first transform in training: reads a dataset's columns and videos into the sample.

    Attributes:
        parquet_keys: the columns that it reads.
        video_keys: the cameras that it reads, in the network's order.
        embodiment_id: which weights a network with several embodiments uses: a number, or a tag of
            `flux_core.robots.EMBODIMENTS`. The sample's `embodiment_ids` is its number.
    """

    example = "ProcessParquetInputs"
    training_only = True
    reads_files = True
    needs_recorded_images = False
    parquet_keys: tuple[str, ...]
    video_keys: tuple[str, ...]
    embodiment_id: int | str | None = None

    @property
    def embodiment(self) -> int | None:
        """The number of the embodiment."""
        return None if self.embodiment_id is None else embodiment_number(self.embodiment_id)

    def check_model(self, model: ModelInputs, where: str) -> None:
        if model.num_embodiments == 1:
            return
        if self.embodiment is None or self.embodiment >= model.num_embodiments:
            raise ConfigError(
                f"{where}.embodiment_id: expected 0 to {model.num_embodiments - 1}, as the network "
                f"has weights for each embodiment, got {self.embodiment_id!r}. A new robot has "
                "'new_embodiment'"
            )

    def column_of(self, name: str) -> str | None:
        """Returns the column that is renamed to `name`; None if there is none."""
        return None


class ImageResize(Transform):
    """Resizes every image to one size."""

    example = "ResizeImages"
    height: int
    width: int

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "images": np.stack([self.resize(image) for image in sample["images"]])}

    def resize(self, image: NDArray[np.uint8], stretch: Stretch = pil_stretch) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 -> (height, width, 3) uint8; `stretch` is the filter to use."""
        raise NotImplementedError

    def check_model(self, model: ModelInputs, where: str) -> None:
        size = (self.height, self.width)
        if size != model.image_size:
            raise ConfigError(
                f"{where}: {type(self).__name__} gives {size}, but the network takes "
                f"{model.image_size}"
            )


class Augmentation(Transform):
    """Changes training samples at random; validation skips it."""

    example = "AugmentImages"
    training_only = True
    needs_recorded_images = False

    def generator(self, sample: Sample) -> np.random.Generator:
        """Returns the random generator of a sample, which depends on its seed, epoch and index.

        Raises:
            DataError: it has none, as on the robot.
        """
        if "rng" not in sample:
            raise DataError(
                f"{type(self).__name__}: expected a training sample with its random generator; "
                "on the robot nothing is changed at random"
            )
        return sample["rng"]


class StateAugmentation(Augmentation):
    """Changes the normalised state of training samples at random."""

    example = "DropStates"


class ImageNormalization(Transform):
    """Maps uint8 images to the network's range, per camera and channel: `x * scale + offset`."""

    example = "SimpleNormalizeImages or NormalizeImages"
    in_graph = True

    def affine(self, num_cameras: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset), each (num_cameras, 3) float32."""
        raise NotImplementedError

    def __call__(self, sample: Sample) -> Sample:
        """(C, h, w, 3) uint8 -> (C, 3, h, w) float32."""
        images = sample["images"]
        scale, offset = self.affine(len(images))
        # Transposed while a pixel is one byte, not four.
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        values = np.multiply(planes, scale[:, :, None, None], dtype=np.float32)
        values += offset[:, :, None, None]
        return {**sample, "images": values}


class Normalization(Transform):
    """Maps states and actions to the network's range, using the statistics of training.

    Actions must become `(x - offset) / scale`, with the scale and offset that the statistics give
    for `norm_type`, because that is what the robot undoes. States may be mapped in any way.

    Attributes:
        norm_type: which statistics are used, if there are no keys.
        state_keys: the keys of the state, each with its dimensions and its own rule.
        action_keys: the same for the actions.
        state_key: the name of the states' statistics.
        action_key: the name of the actions' statistics.
        state_dim: the size that states are padded to; None for no padding.
        action_dim: the size that actions are padded to; None for no padding.
    """

    example = "NormalizeStatesAndActions"
    before = (StateAugmentation,)
    needs_recorded_images = False
    norm_type: NormType
    state_key: str
    action_key: str
    state_dim: int | None
    action_dim: int | None
    state_keys: tuple[StateKeyRule, ...] = ()
    action_keys: tuple[KeyRule, ...] = ()

    def check_model(self, model: ModelInputs, where: str) -> None:
        if self.action_dim not in (None, model.action_dim):
            raise ConfigError(
                f"{where}: {type(self).__name__} pads actions to {self.action_dim}, but the "
                f"network's have {model.action_dim} dimensions"
            )
        if model.state_dim is not None and self.state_dim not in (None, model.state_dim):
            raise ConfigError(
                f"{where}: {type(self).__name__} pads states to {self.state_dim}, but the "
                f"network's have {model.state_dim} dimensions"
            )


class Padding(Transform):
    """Pads states or actions to `dim` dimensions; the first dimensions do not change."""

    example = "PadKeyToDim"
    needs_recorded_images = False
    dim: int

    def for_robot(self, cameras: int, dims: int) -> None:
        """Returns None: the robot pads its states as its network needs, and has no actions."""


class Prompter(Transform):
    """Writes the prompt or edits the task text.

    Attributes:
        uses_state: whether the prompt also depends on the state.
    """

    example = "TaskPrompter"
    needs_recorded_images = False
    uses_state: ClassVar[bool] = False

    @property
    def compared_as(self) -> str:
        return "the prompt"


class Tokenization(Transform):
    """Converts the prompt to tokens, (max_len,) int64, and their mask.

    Attributes:
        tokenizer: the config of the tokenizer.
        max_len: the number of tokens, including padding.
        writes_prompt: whether it also writes the prompt, so that no prompter is needed.
    """

    example = "ProcessPrompts"
    reads_files = True
    needs_recorded_images = False
    writes_prompt: ClassVar[bool] = False
    tokenizer: ByteTokenizer | PretrainedTokenizer
    max_len: int

    def __call__(self, sample: Sample) -> Sample:
        return self.process(sample, self.tokenizer.load())

    def write_prompt(self, sample: Sample) -> Sample:
        """Returns the sample with the text that is tokenised."""
        return sample

    def process(self, sample: Sample, tokenizer: Tokenizer) -> Sample:
        """Does the same with a tokenizer that has already been loaded."""
        raise NotImplementedError
