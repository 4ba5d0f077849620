"""The transforms of a config in order, and everything that others ask of them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..norm_stats import NormStats, statistics_of
from ..robots.spec import RobotSpec
from ..tokenizers import Tokenizer
from .actions import DenormalizeActions, NormalizeStatesAndActions
from .base import ModelInputs, Sample, Transform, apply
from .difference import Difference, differences
from .inverses import check_inverses, check_undone
from .order import check_order
from .roles import (
    DatasetInputs,
    ImageNormalization,
    ImageResize,
    Normalization,
    Prompter,
    Tokenization,
)
from .units import ActionInverse, UnitStep, compose

Kind = TypeVar("Kind", bound=Transform)


@dataclass(frozen=True)
class Pipeline:
    """Transforms in order; it alone knows their order and their inverses.

    Attributes:
        transforms: what is done to a sample, in order.
        denormalize: what undoes the normalisation of actions; None for the transforms' own.
        where: the dotted path of `transforms`, for messages.
    """

    transforms: tuple[Transform, ...]
    denormalize: DenormalizeActions | None = field(default=None, kw_only=True)
    where: str = field(default="transforms", compare=False, kw_only=True)

    def __call__(self, sample: Sample) -> Sample:
        """Runs all of them."""
        return apply(self.transforms, sample)

    # Which steps of a kind.

    def steps(self, kind: type[Kind]) -> tuple[Kind, ...]:
        """All of a class or role, in order."""
        return tuple(step for step in self.transforms if isinstance(step, kind))

    def maybe(self, kind: type[Kind]) -> Kind | None:
        """The first of a class or role, if there is any."""
        return next(iter(self.steps(kind)), None)

    def one(self, kind: type[Kind]) -> Kind:
        """The only one of a class or role.

        Raises:
            ConfigError: there is none, or there are several.
        """
        found = self.steps(kind)
        if len(found) != 1:
            name = kind.example or kind.__name__
            raise ConfigError(f"{self.where}: expected one {name}, got {len(found)}")
        return found[0]

    def without(self, kind: type[Transform]) -> Pipeline:
        """Leaves out all of a class or role."""
        return self._with(step for step in self.transforms if not isinstance(step, kind))

    def replace(self, kind: type[Transform], **fields: object) -> Pipeline:
        """Gives all of a class or role other values of these fields."""
        return self._with(
            dataclasses.replace(as_dataclass(step), **fields) if isinstance(step, kind) else step
            for step in self.transforms
        )

    def with_cameras(self, names: Sequence[str], known: Sequence[str]) -> Pipeline:
        """The same for a robot with the cameras `names` alone, of those `known` in order."""
        kept = [place for place, name in enumerate(known) if name in names]
        return self._with(step.with_cameras(kept) for step in self.transforms)

    # Units and the way back.

    @cached_property
    def unit_steps(self) -> tuple[UnitStep, ...]:
        """What gives states and actions the units that they are normalised in."""
        return self.steps(UnitStep)

    @property
    def is_relative(self) -> bool:
        """Whether some actions are relative to the state they start from."""
        return any(step.relative_mask is not None for step in self.unit_steps)

    @property
    def statistic_names(self) -> tuple[str, str]:
        """What the statistics of the states and those of the actions are called."""
        normalize = self.maybe(Normalization) or NormalizeStatesAndActions()
        return normalize.state_key, normalize.action_key

    def states(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """(..., S) states in robot units, in those that they are normalised in."""
        for step in self.unit_steps:
            states = step.state(states)
        return states

    def actions(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """(..., A) absolute actions in robot units, in those that they are normalised in."""
        for step in self.unit_steps:
            actions = step.actions(actions)
        return actions

    def state_inverse(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """Undoes `states`, as near as its steps can."""
        for step in reversed(self.unit_steps):
            states = step.state_inverse(states)
        return states

    def action_affine(
        self, stats: NormStats, dims: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(scale, offset), each (dims,): normalised actions to the robot's, but for its state."""
        inverse = self.action_inverse(stats, dims)
        return inverse.scale, inverse.offset

    def relative_mask(self, dims: int) -> NDArray[np.bool_]:
        """(dims,) True where an action is relative to the observed state.

        Raises:
            ConfigError: a transform is for another number of dimensions.
        """
        mask = np.zeros(dims, dtype=np.bool_)
        for step in self.unit_steps:
            if step.relative_mask is not None:
                if len(step.relative_mask) != dims:
                    raise ConfigError(
                        f"{type(step).__name__}.mask: expected {dims} entries, got "
                        f"{len(step.relative_mask)}"
                    )
                mask |= np.asarray(step.relative_mask, dtype=np.bool_)
        return mask

    def action_inverse(self, stats: NormStats, dims: int | None = None) -> ActionInverse:
        """What brings the network's actions back to the robot's units.

        Args:
            stats: of training, by name.
            dims: the robot's joints at most; training may have padded ones behind them.
        """
        scale, offset = self._denormalization(stats)
        scale, offset = scale[:dims], offset[:dims]
        for step in self.unit_steps:
            if step.relative_mask is None and step.dims not in (None, len(scale)):
                raise ConfigError(
                    f"{type(step).__name__}: expected statistics of {step.dims} action dimensions, "
                    f"got {len(scale)}"
                )
        self.relative_mask(len(scale))
        return compose(self.unit_steps, scale, offset)

    def inverse(
        self,
        actions: NDArray[np.float32],
        state: NDArray[np.float32],
        stats: NormStats,
        dims: int | None = None,
    ) -> NDArray[np.float32]:
        """(..., H, at least A) normalised actions and (..., S) observed states -> (..., H, A)."""
        return self.action_inverse(stats, dims)(actions, state)

    def _denormalization(self, stats: NormStats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.denormalize is not None:
            return self.denormalize.affine(statistics_of(stats, self.denormalize.action_key))
        normalize = self.one(Normalization)
        return statistics_of(stats, normalize.action_key).affine(normalize.norm_type)

    # An observation or a prompt alone.

    def encode(self, sample: Sample, tokenizer: Tokenizer) -> Sample:
        """What becomes of an observation outside the network, with a tokenizer that is loaded."""
        for step in self.transforms:
            if isinstance(step, Tokenization):
                sample = step.process(sample, tokenizer)
            elif not step.in_graph:
                sample = step(sample)
        return sample

    def prompt(self, sample: Sample) -> Sample:
        """Writes the prompt of a task, from `task_description` and the state as normalised.

        Raises:
            ConfigError: no transform writes one.
        """
        return apply(self.steps(Prompter) or [self.one(Prompter)], sample)

    @property
    def prompt_uses_state(self) -> bool:
        """Whether the prompt depends on the state too."""
        return any(step.uses_state for step in self.steps(Prompter))

    @property
    def resize_at_decode(self) -> ImageResize | None:
        """The resize that may be done while frames are decoded: nothing before it minds."""
        for step in self.transforms:
            if isinstance(step, ImageResize):
                return step
            if step.needs_recorded_images:
                return None
        return None

    # Does it fit.

    def check(self) -> None:
        """Refuses what the robot could not undo with one scale, one offset and the observed state.

        Raises:
            ConfigError: a wrong order, or a transform that does not do to actions what it says.
        """
        check_order(self.transforms, self.where)
        check_inverses(self.transforms, self.where)

    @property
    def needs_sample(self) -> bool:
        """Whether `check` leaves something open that only `check_sample` can tell: whether a
        foreign transform that needs real data leaves actions alone."""
        return any(not step.is_ours for step in check_inverses(self.transforms, self.where))

    def check_sample(self, before: Sample, stats: NormStats) -> None:
        """Refuses transforms that do not bring the actions of a sample back.

        Args:
            before: a sample of the data as the first transform gets it.
            stats: that it is normalised with.
        """
        before = apply(self.steps(DatasetInputs), before)
        recorded = {key: np.array(before[key]) for key in ("states", "actions")}
        dims = recorded["actions"].shape[-1]
        if self.maybe(Normalization) is None:
            inverse = compose(self.unit_steps, np.ones(dims), np.zeros(dims))
        else:
            inverse = self.action_inverse(stats, dims)
        after = self.without(DatasetInputs)(before)
        check_undone(recorded, after, inverse, f"{self.where}: all of them together")

    def check_on_robot(self) -> None:
        """Refuses a transform that is for training only."""
        for place, step in enumerate(self.transforms):
            if step.training_only:
                raise ConfigError(
                    f"{self.where}.{place}: expected a transform of an observation, got "
                    f"{type(step).__name__}, which is for training only. Leave it out"
                )

    def check_robot(self, robot: RobotSpec) -> None:
        """Refuses a transform that is for another robot."""
        for step in self.transforms:
            step.check_robot(robot, self.where)

    def check_model(self, model: ModelInputs) -> None:
        """Refuses sizes that the network does not take."""
        for step in self.transforms:
            step.check_model(model, self.where)
        if self.maybe(ImageNormalization) is None:
            raise ConfigError(f"{self.where}: no {ImageNormalization.example} in the transforms")

    # Training against robot.

    def for_robot(self, cameras: int, dims: int) -> Pipeline:
        """The normal form in which training's pipeline is compared with a robot's.

        Args:
            cameras: the robot's number of cameras.
            dims: the robot's number of joints.
        """
        steps = (step.for_robot(cameras, dims) for step in self.transforms)
        return self._with(step for step in steps if step is not None)

    def difference(self, other: Pipeline) -> tuple[Difference, ...]:
        """What `other`, a robot's normal form, does otherwise than this one, of training."""
        return differences(self.transforms, other.transforms)

    def _with(self, steps: Iterator[Transform]) -> Pipeline:
        return dataclasses.replace(self, transforms=tuple(steps))


def as_dataclass(step: Transform) -> Any:
    """A transform, as `dataclasses.replace` wants to have it declared."""
    return step
