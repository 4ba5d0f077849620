"""The base class of transforms, and what a transform declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..robots.spec import RobotSpec

Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What a network expects of the transforms before it.

    Attributes:
        image_size: height and width in pixels.
        action_dim: dimensions of its actions, padding included.
        pixel_range: the range that its vision was pretrained on; None if any range works.
    """

    image_size: tuple[int, int]
    action_dim: int
    pixel_range: tuple[float, float] | None = None


class Transform:
    """Turns one sample into the next; does not write into its input.

    A transform of your own is a frozen keyword-only dataclass that derives from this class and
    overrides `__call__`. If it is one of the `roles` (a resize, a prompter, a unit step, ...) it
    derives from that instead. It must leave the sample's `actions` unchanged unless it is a
    `UnitStep`, because the robot has to undo any change to actions.

    Attributes:
        example: the usual transform of this role, for messages.
        once: whether a config may contain it only once.
        before: transforms that it must precede, by class or role.
        training_only: whether it is for training only; the robot refuses it.
        in_graph: whether the exported network contains it, so that the robot skips it.
        reads_files: whether calling it reads files; then binding a config does not try it.
        needs_recorded_images: whether it needs images as they were recorded. If False, a later
            resize may be done while frames are decoded, which is faster.
    """

    example: ClassVar[str] = ""
    once: ClassVar[bool] = False
    before: ClassVar[tuple[type[Transform], ...]] = ()
    training_only: ClassVar[bool] = False
    in_graph: ClassVar[bool] = False
    reads_files: ClassVar[bool] = False
    needs_recorded_images: ClassVar[bool] = True

    def __call__(self, sample: Sample) -> Sample:
        """Returns the changed sample as a new dict."""
        raise NotImplementedError(f"{type(self).__name__} does not implement __call__")

    @property
    def is_ours(self) -> bool:
        """Whether flux itself ships it."""
        return type(self).__module__.partition(".")[0] in ("flux_core", "flux_data")

    @property
    def compared_as(self) -> str:
        """Its name when training and robot are compared, between transforms of the same name."""
        return type(self).__name__

    def with_cameras(self, kept: Sequence[int]) -> Transform:
        """Returns it for a robot that has only the cameras at the positions `kept`."""
        return self

    def for_robot(self, cameras: int, dims: int) -> Transform | None:
        """Returns the form in which training's transform is compared with the robot's.

        Args:
            cameras: the robot's number of cameras; training may have padded ones after them.
            dims: the robot's number of joints; training may have padded ones after them.

        Returns:
            The transform without the settings that may differ; None if the robot does not need it.
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
