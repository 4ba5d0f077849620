"""The transforms of a config as a whole: their order, their inverse and their checks."""

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
from .actions import DenormalizeActions, NormalizeStatesAndActions, action_affine
from .base import ModelInputs, Sample, Transform, apply
from .difference import Difference, differences
from .gr00t.dimension_rules import DimensionRules
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
    """Transforms in order. All questions about them are answered here, without naming a class.

    Attributes:
        transforms: what is done to a sample, in order.
        denormalize: how actions are denormalised; None to undo the transforms' own normalisation.
        where: the dotted path of `transforms`, for messages.
    """

    transforms: tuple[Transform, ...]
    denormalize: DenormalizeActions | None = field(default=None, kw_only=True)
    where: str = field(default="transforms", compare=False, kw_only=True)

    def __call__(self, sample: Sample) -> Sample:
        """Runs all of them."""
        return apply(self.transforms, sample)

    # Selecting and changing steps.

    def steps(self, kind: type[Kind]) -> tuple[Kind, ...]:
        """Returns all steps of a class or role, in order."""
        return tuple(step for step in self.transforms if isinstance(step, kind))

    def maybe(self, kind: type[Kind]) -> Kind | None:
        """Returns the first step of a class or role; None if there is none."""
        return next(iter(self.steps(kind)), None)

    def one(self, kind: type[Kind]) -> Kind:
        """Returns the only step of a class or role.

        Raises:
            ConfigError: there is none, or more than one.
        """
        found = self.steps(kind)
        if len(found) != 1:
            name = kind.example or kind.__name__
            raise ConfigError(f"{self.where}: expected one {name}, got {len(found)}")
        return found[0]

    def without(self, kind: type[Transform]) -> Pipeline:
        """Removes all steps of a class or role."""
        return self._with(step for step in self.transforms if not isinstance(step, kind))

    def replace(self, kind: type[Transform], **fields: object) -> Pipeline:
        """Sets these fields of all steps of a class or role."""
        return self._with(
            dataclasses.replace(as_dataclass(step), **fields) if isinstance(step, kind) else step
            for step in self.transforms
        )

    def with_cameras(self, names: Sequence[str], known: Sequence[str]) -> Pipeline:
        """Keeps the settings of the cameras `names`, out of all `known` ones in order."""
        kept = [place for place, name in enumerate(known) if name in names]
        return self._with(step.with_cameras(kept) for step in self.transforms)

    # Units, and converting back.

    @cached_property
    def unit_steps(self) -> tuple[UnitStep, ...]:
        """The steps that convert states and actions to the units they are normalised in."""
        return self.steps(UnitStep)

    @property
    def is_relative(self) -> bool:
        """Whether any actions are relative to the state at the start of their chunk."""
        return any(step.relative_mask is not None for step in self.unit_steps)

    @property
    def statistic_names(self) -> tuple[str, str]:
        """The names of the statistics of states and of actions."""
        normalize = self.maybe(Normalization) or NormalizeStatesAndActions()
        return normalize.state_key, normalize.action_key

    def states(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """Converts states (..., S) from robot units to those that they are normalised in."""
        for step in self.unit_steps:
            states = step.state(states)
        return states

    def actions(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Converts absolute actions (..., A) to the units that actions are normalised in."""
        for step in self.unit_steps:
            actions = step.actions(actions)
        return actions

    def state_inverse(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """Undoes `states`, as far as the steps can."""
        for step in reversed(self.unit_steps):
            states = step.state_inverse(states)
        return states

    def action_affine(
        self, stats: NormStats, dims: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns (scale, offset), each (dims,), of the inverse; see `action_inverse`."""
        inverse = self.action_inverse(stats, dims)
        return inverse.scale, inverse.offset

    def relative_mask(self, dims: int) -> NDArray[np.bool_]:
        """Returns (dims,) True where an action is relative to the observed state.

        Raises:
            ConfigError: a mask has another number of entries.
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
        """Returns the conversion of the network's actions to robot units.

        Args:
            stats: the statistics of training.
            dims: the number of the robot's joints; training may append padded ones. None for all.
        """
        scale, offset = self._denormalization(stats)
        rules = self.action_rules(len(scale))
        binary = None if rules is None else rules.is_binary[:dims]
        scale, offset = scale[:dims], offset[:dims]
        for step in self.unit_steps:
            if step.relative_mask is None and step.dims not in (None, len(scale)):
                raise ConfigError(
                    f"{type(step).__name__}: expected statistics of {step.dims} action dimensions, "
                    f"got {len(scale)}"
                )
        self.relative_mask(len(scale))
        return compose(self.unit_steps, scale, offset, binary)

    def inverse(
        self,
        actions: NDArray[np.float32],
        state: NDArray[np.float32],
        stats: NormStats,
        dims: int | None = None,
    ) -> NDArray[np.float32]:
        """Converts normalised actions (..., H, at least A) to robot units (..., H, A).

        `state` (..., S) is the observed one, in robot units; see `action_inverse` for the rest.
        """
        return self.action_inverse(stats, dims)(actions, state)

    def _denormalization(self, stats: NormStats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.denormalize is not None:
            return self.denormalize.affine(statistics_of(stats, self.denormalize.action_key))
        normalize = self.one(Normalization)
        own = statistics_of(stats, normalize.action_key)
        return action_affine(own, normalize.norm_type, normalize.action_keys)

    def action_rules(self, dims: int) -> DimensionRules | None:
        """Returns the rule of each of `dims` actions; None if all have the same norm type."""
        keys = (self.denormalize or self.maybe(Normalization) or DenormalizeActions()).action_keys
        return DimensionRules.of_keys(keys, dims) if keys else None

    def not_binary(self, stats: NormStats) -> str | None:
        """Describes the first binary action recorded outside 0 to 1; None if there is none."""
        recorded = statistics_of(stats, self.statistic_names[1])
        rules = self.action_rules(recorded.dim)
        for dim in [] if rules is None else map(int, np.flatnonzero(rules.is_binary)):
            low, high = recorded.min[dim], recorded.max[dim]
            if low < 0.0 or high > 1.0:
                return f"action {dim} is binary, and the recordings go from {low:g} to {high:g}"
        return None

    # Encoding an observation or a prompt.

    def encode(self, sample: Sample, tokenizer: Tokenizer) -> Sample:
        """Runs the steps that are not part of the exported network, with a loaded tokenizer."""
        for step in self.transforms:
            if isinstance(step, Tokenization):
                sample = step.process(sample, tokenizer)
            elif not step.in_graph:
                sample = step(sample)
        return sample

    def prompt(self, sample: Sample) -> Sample:
        """Writes the prompt from `task_description` and the normalised state.

        Raises:
            ConfigError: no transform writes one.
        """
        tokenization = self.maybe(Tokenization)
        if tokenization is not None and tokenization.writes_prompt:
            return tokenization.write_prompt(apply(self.steps(Prompter), sample))
        return apply(self.steps(Prompter) or [self.one(Prompter)], sample)

    @property
    def prompt_uses_state(self) -> bool:
        """Whether the prompt also depends on the state."""
        return any(step.uses_state for step in self.steps(Prompter))

    @property
    def resize_at_decode(self) -> ImageResize | None:
        """The resize that may be done while frames are decoded; None if a step before it needs the
        recorded images."""
        for step in self.transforms:
            if isinstance(step, ImageResize):
                return step
            if step.needs_recorded_images:
                return None
        return None

    # Checks.

    def check(self) -> None:
        """Refuses transforms that the robot could not undo with a scale, an offset and its state.

        Raises:
            ConfigError: the order is wrong, or a transform changes actions in another way than it
                declares.
        """
        check_order(self.transforms, self.where)
        check_inverses(self.transforms, self.where)

    @property
    def needs_sample(self) -> bool:
        """Whether a custom transform could not be checked by `check` and needs `check_sample`."""
        return any(not step.is_ours for step in check_inverses(self.transforms, self.where))

    def check_sample(self, before: Sample, stats: NormStats) -> None:
        """Refuses transforms whose inverse does not restore the actions of a sample.

        Args:
            before: a sample of the data as the first transform gets it.
            stats: the statistics that it is normalised with.
        """
        before = apply(self.steps(DatasetInputs), before)
        recorded = {key: np.array(before[key]) for key in ("states", "actions")}
        dims = recorded["actions"].shape[-1]
        if self.maybe(Normalization) is None:
            inverse = compose(self.unit_steps, np.ones(dims), np.zeros(dims))
        else:
            inverse = self.action_inverse(stats, dims)
        after = self.without(DatasetInputs)(before)
        rules = self.action_rules(dims)
        check_undone(recorded, after, inverse, f"{self.where}: all together", rules)

    def check_on_robot(self) -> None:
        """Refuses transforms that run in training only."""
        for place, step in enumerate(self.transforms):
            if step.training_only:
                raise ConfigError(
                    f"{self.where}.{place}: expected a transform for the robot, got "
                    f"{type(step).__name__}, which runs in training only. Leave it out"
                )

    def check_robot(self, robot: RobotSpec) -> None:
        """Refuses transforms that do not fit the robot."""
        for place, step in enumerate(self.transforms):
            step.check_robot(robot, f"{self.where}.{place}")

    def check_model(self, model: ModelInputs) -> None:
        """Refuses transforms that do not fit the network."""
        for place, step in enumerate(self.transforms):
            step.check_model(model, f"{self.where}.{place}")
        if self.maybe(ImageNormalization) is None:
            raise ConfigError(f"{self.where}: expected {ImageNormalization.example}, got neither")

    # Comparing training with a robot.

    def for_robot(self, cameras: int, dims: int) -> Pipeline:
        """Returns the normal form in which training's pipeline is compared with the robot's.

        Args:
            cameras: the robot's number of cameras.
            dims: the robot's number of joints.
        """
        writes_prompt = any(step.writes_prompt for step in self.steps(Tokenization))
        kept = [s for s in self.transforms if not (writes_prompt and isinstance(s, Prompter))]
        steps = (_for_robot(step, cameras, dims) for step in kept)
        return self._with(step for step in steps if step is not None)

    def difference(self, other: Pipeline) -> tuple[Difference, ...]:
        """Compares this pipeline of training with the robot's; both in normal form."""
        return differences(self.transforms, other.transforms)

    def _with(self, steps: Iterator[Transform]) -> Pipeline:
        return dataclasses.replace(self, transforms=tuple(steps))


def as_dataclass(step: Transform) -> Any:
    """Returns `step`; every transform is a dataclass, which its base class cannot declare."""
    return step


def _for_robot(step: Transform, cameras: int, dims: int) -> Transform | None:
    """Returns the normal form of one step.

    A class of a user's own that derives from one of ours may do more than it, so the robot needs
    the same class, unless the class itself says that it runs in training only.
    """
    form = step.for_robot(cameras, dims)
    is_told = type(step).for_robot.__module__.partition(".")[0] not in ("flux_core", "flux_data")
    return form if form is not None or step.training_only or step.is_ours or is_told else step
