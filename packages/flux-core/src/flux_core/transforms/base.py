"""The base class of transforms: what a transform does, and what it declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..robots.spec import RobotSpec
from .rule import Rule

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What a network expects from the transforms that run before it.

    Attributes:
        image_size: height and width in pixels.
        action_dim: dimensions of its actions, padding included.
        pixel_range: the range of pixel values that its vision backbone was pretrained on; None if
            any range will do.
        needs_pixel_range: whether another range is an error, because the network converts from it.
        state_dim: dimensions of its state, padding included; None if any number will do.
        num_embodiments: from how many robots' weights it chooses; 1 if it has no such weights.
    """

    image_size: tuple[int, int]
    action_dim: int
    pixel_range: tuple[float, float] | None = None
    needs_pixel_range: bool = False
    state_dim: int | None = None
    num_embodiments: int = 1


class Transform:
    """Turns one sample into the next; does not write into its input.

    A custom transform is a frozen keyword-only dataclass that derives from this class and overrides
    `__call__`. If it has one of the roles in `roles` or `units` (resize, prompter, unit step, ...),
    it derives from that class instead. It must not change the sample's `actions` unless it is a
    `UnitStep`, because the robot has to undo whatever is done to actions.

    Attributes:
        example: the usual transform in this role, for messages.
        once: whether a config may contain it only once.
        before: transforms that it must precede, given as classes or roles.
        training_only: whether it runs in training only; the robot refuses it.
        in_graph: whether it is part of the exported network, so that the robot skips it.
        reads_files: whether calling it reads files; if so, it is not called when a config is bound.
        rules: for each field, whether training and robot must have the same value (see `rule`).
            Without a rule they must.
        needs_recorded_images: whether it needs images as they were recorded. If False, a resize
            after it may be done while frames are decoded, which is faster.
    """

    example: ClassVar[str] = ""
    once: ClassVar[bool] = False
    before: ClassVar[tuple[type[Transform], ...]] = ()
    training_only: ClassVar[bool] = False
    in_graph: ClassVar[bool] = False
    reads_files: ClassVar[bool] = False
    needs_recorded_images: ClassVar[bool] = True
    rules: ClassVar[Mapping[str, Rule]] = {}

    def __call__(self, sample: Sample) -> Sample:
        """Returns the changed sample as a new dict."""
        raise NotImplementedError(f"{type(self).__name__} does not override __call__")

    @property
    def is_ours(self) -> bool:
        """Whether it is part of flux."""
        return type(self).__module__.partition(".")[0] in ("flux_core", "flux_data")

    @property
    def compared_as(self) -> str:
        """Its name when training is compared with the robot; equal names are compared together."""
        return type(self).__name__

    def with_cameras(self, kept: Sequence[int]) -> Transform:
        """Returns the transform for a robot that has only the cameras at the positions `kept`."""
        return self

    def for_robot(self, cameras: int, dims: int) -> Transform | None:
        """Returns the normal form in which training's transform is compared with the robot's.

        Args:
            cameras: the robot's number of cameras; training may append padded ones.
            dims: the robot's number of joints; training may append padded ones.

        Returns:
            The transform without the settings that may differ between training and robot; None if
            the robot does not need it at all.
        """
        return None if self.training_only else self.with_cameras(range(cameras))

    def check_robot(self, robot: RobotSpec, where: str) -> None:
        """Raises ConfigError if it does not fit the robot; `where` is its dotted path."""

    def check_model(self, model: ModelInputs, where: str) -> None:
        """Raises ConfigError if it does not fit the network; `where` is its dotted path."""


def apply(transforms: Iterable[Callable[[Sample], Sample]], sample: Sample) -> Sample:
    """Runs `transforms` in order."""
    for transform in transforms:
        sample = transform(sample)
    return sample
