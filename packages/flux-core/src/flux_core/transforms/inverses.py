"""Checks with random numbers that the robot can undo what transforms do to actions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from ..norm_stats import FeatureStats, NormStats, compute_stats
from .actions import action_affine
from .base import Sample, Transform
from .gr00t.dimension_rules import THRESHOLD, DimensionRules
from .roles import ImageNormalization, ImageResize, Normalization, Padding
from .units import ActionInverse, UnitStep, way_back

logger = logging.getLogger("flux.config")

DIMS, BATCH, STEPS, CAMERAS, SIDE = 6, 3, 4, 2, 16
REACH = 10.0
"""Random states and actions lie between -10 and 10."""
TOLERANCE = 1e-5
"""About a hundred float32 roundings, relative to the largest number involved."""
CHANGING_ONLY_IMAGES = (ImageResize.__call__, ImageNormalization.__call__)


def check_inverses(transforms: Sequence[Transform], where: str) -> tuple[Transform, ...]:
    """Refuses transforms that change actions in another way than they declare.

    Every transform that reads no files is called with random states and actions.

    Returns:
        The transforms that could not be checked like this, because they read files or failed on the
        random sample. They can only be checked with a sample of the data.

    Raises:
        ConfigError: names the transform, and the dimension in which the actions were not restored.
    """
    untried: list[Transform] = []
    earlier: list[tuple[Transform, Sample, Sample]] = []
    for transform in transforms:
        if type(transform).__call__ in CHANGING_ONLY_IMAGES:
            continue
        tried = None if transform.reads_files else _try(transform, where)
        if tried is None:
            untried.append(transform)
            continue
        before, after = tried
        name, claimed = type(transform).__name__, _claimed(transform, before["stats"])
        check_undone(before, after, claimed, f"{where}: {name}", _rules(transform))
        if isinstance(transform, UnitStep):
            _check_leading_axes(transform, before, after, f"{where}: {name}")
            if transform.relative_mask is not None:
                _check_reference(name, transform.relative_mask, earlier, where)
        if not transform.training_only:
            earlier.append((transform, before, after))
    return tuple(untried)


def check_undone(
    before: Sample,
    after: Sample,
    inverse: ActionInverse | None,
    where: str,
    rules: DimensionRules | None = None,
) -> None:
    """Refuses actions that `inverse` does not restore.

    Args:
        before: a sample with `states` (S,) and `actions` (H, A).
        after: the sample after the transforms.
        inverse: what should undo the change; None if actions must not change.
        where: the dotted path and name of the transforms, for messages.
        rules: of each action; some cut values off, which cannot come back.
    """
    expected, found = before["actions"], np.asarray(after["actions"])
    if inverse is None:
        if not np.array_equal(found, expected):
            raise ConfigError(
                f"{where} changes actions but does not declare how the robot undoes that. Derive "
                "it from UnitStep and override action_affine or relative_mask"
            )
        return
    if found.shape[:-1] != expected.shape[:-1] or found.shape[-1] < expected.shape[-1]:
        raise ConfigError(
            f"{where}: expected actions of shape {expected.shape} or wider, got {found.shape}"
        )
    with np.errstate(all="ignore"):
        back = inverse(found, before["states"])
    largest = max(REACH, *(float(np.abs(x).max()) for x in (expected, inverse.offset)))
    if rules is not None:
        dims = expected.shape[-1]
        expected = np.where(rules.is_binary[:dims], expected > THRESHOLD, expected)
        is_cut = rules.is_clipped[:dims] & (np.abs(found[..., :dims]) >= 1.0)
        expected = np.where(is_cut, back, expected)
    is_back = np.abs(back - expected) <= TOLERANCE * largest  # NaN is not
    if not is_back.all():
        place = tuple(np.argwhere(~is_back)[0])
        raise ConfigError(
            f"{where}: expected actions to be restored by the declared scale, offset and "
            f"relative_mask; dimension {place[-1]} came back as {back[place]:.6g} instead of "
            f"{expected[place]:.6g}"
        )


def _try(transform: Transform, where: str) -> tuple[Sample, Sample] | None:
    """Returns a random sample before and after; None if the transform fails on it."""
    fixed = _dims(transform)
    before, given = _sample(fixed or DIMS), _sample(fixed or DIMS)
    name = type(transform).__name__
    try:
        with np.errstate(all="ignore"):
            after = transform(given)
    except Exception as error:  # custom code may raise anything on a sample it was not made for
        if fixed is not None:
            raise ConfigError(
                f"{where}: {name} fails on random states and actions of {fixed} dimensions, the "
                f"number that it requires: {error}"
            ) from error
        logger.debug("%s: %s can only be checked with data: %s", where, name, error)
        return None
    if "actions" not in after:
        raise ConfigError(f"{where}: {name} drops the sample's actions")
    if not np.array_equal(given["actions"], before["actions"]):
        raise ConfigError(f"{where}: {name} changes the given actions in place")
    return before, after


def _dims(transform: Transform) -> int | None:
    """Returns the number of dimensions that a transform requires; None if any will do."""
    if isinstance(transform, UnitStep):
        return transform.dims
    if isinstance(transform, Padding):
        return transform.dim
    if isinstance(transform, Normalization):
        widths = [
            sum(size for _, size, _ in keys)
            for keys in (transform.state_keys, transform.action_keys)
        ]
        dims = [dim for dim in (transform.state_dim, transform.action_dim) if dim is not None]
        return max(widths) if any(widths) else min(dims, default=None)
    return None


def _rules(transform: Transform) -> DimensionRules | None:
    """Returns the rule of each action, if the transform has one for each key."""
    if not isinstance(transform, Normalization) or not transform.action_keys:
        return None
    return DimensionRules.of_keys(transform.action_keys, _dims(transform) or DIMS)


def _claimed(transform: Transform, stats: NormStats) -> ActionInverse | None:
    """Returns the inverse that a transform declares; None if it declares to leave actions alone."""
    scale: ArrayLike = 1.0
    offset: ArrayLike = 0.0
    mask: ArrayLike = False
    binary: ArrayLike = False
    if isinstance(transform, Normalization):
        own = stats[transform.action_key]
        scale, offset = action_affine(own, transform.norm_type, transform.action_keys)
        rules = _rules(transform)
        binary = False if rules is None else rules.is_binary
    elif isinstance(transform, UnitStep):
        scale, offset = way_back(transform) or (scale, offset)
        mask = transform.relative_mask or mask
    elif not isinstance(transform, Padding):
        return None
    dims = _dims(transform) or DIMS
    return ActionInverse(
        scale=np.broadcast_to(np.asarray(scale, np.float32), dims),
        offset=np.broadcast_to(np.asarray(offset, np.float32), dims),
        relative_mask=np.broadcast_to(np.asarray(mask, np.bool_), dims),
        binary_mask=np.broadcast_to(np.asarray(binary, np.bool_), dims),
    )


def _check_leading_axes(step: UnitStep, before: Sample, after: Sample, where: str) -> None:
    """Statistics convert a whole column at once, so many rows must give the same as each alone."""
    states, actions = (np.stack([before[key]] * BATCH) for key in ("states", "actions"))
    try:
        converted = {"states": step.state(states), "actions": step.forward(actions, states)}
    except Exception as error:  # custom code may raise anything
        raise ConfigError(
            f"{where} fails on several samples at once, which statistics need: {error}"
        ) from error
    for key, values in converted.items():
        alone = after[key]
        if values.shape != (BATCH, *alone.shape) or not np.allclose(values, alone, atol=1e-4):
            raise ConfigError(
                f"{where}: expected the same {key} whether it gets one sample or several at once, "
                "as statistics do"
            )


def _check_reference(
    name: str,
    mask: Sequence[bool],
    earlier: Sequence[tuple[Transform, Sample, Sample]],
    where: str,
) -> None:
    """Refuses a mask where states and actions were converted differently before.

    The robot adds the state that it observes, so both must have had the same unit all along.
    """
    for other, before, after in earlier:
        dims = (isinstance(other, UnitStep) and other.dims) or len(mask)
        differing = _differing(other, before, after, dims)
        if dims == len(mask) and not any(mask[dim] for dim in differing):
            continue
        falses = f" with False at {_listed(differing)}" if differing else ""
        raise ConfigError(
            f"{where}: {name}.mask: after {type(other).__name__} expected {dims} entries{falses} "
            f"(where its states and actions differ in unit), got {mask}"
        )


def _differing(other: Transform, before: Sample, after: Sample, dims: int) -> list[int]:
    """Returns the dimensions where states and actions are converted differently, or where actions
    are relative already."""
    relative: ArrayLike = False
    if isinstance(other, UnitStep):
        random = np.random.default_rng(1)
        states = random.uniform(-REACH, REACH, (50, dims)).astype(np.float32)
        back = other.actions_inverse(other.state(states))
        relative = other.relative_mask or relative
    else:
        states, back = before["states"][None], np.asarray(after["states"])[None]
        back = back[:, : states.shape[1]]
    is_off = ~(np.abs(back - states) <= TOLERANCE * REACH).all(axis=0)
    return [int(dim) for dim in np.flatnonzero(is_off | np.asarray(relative)) if dim < dims]


def _sample(dims: int) -> Sample:
    """Returns a sample with random numbers; the same each time."""
    random = np.random.default_rng(0)

    def values(*shape: int) -> NDArray[np.float32]:
        return random.uniform(-REACH, REACH, shape).astype(np.float32)

    return {
        "states": values(dims),
        "actions": values(STEPS, dims),
        "action_masks": np.ones(STEPS, np.bool_),
        "stats": _SameForAll(values(20, dims)),
        "num_state_dims": dims,
        "images": random.integers(0, 256, (CAMERAS, SIDE, SIDE, 3), dtype=np.uint8),
        "image_masks": np.ones(CAMERAS, np.bool_),
        "camera_names": tuple(f"camera_{i}" for i in range(CAMERAS)),
        "task_description": "fold the towel",
        "prompt": "fold the towel\n",
        "rng": random,
    }


class _SameForAll(dict[str, FeatureStats]):
    """The same statistics under every name."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        super().__init__()
        self._values = values

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> FeatureStats:
        return compute_stats(self._values)


def _listed(dims: Sequence[int]) -> str:
    *first, last = map(str, dims)
    return f"{', '.join(first)} and {last}" if first else last
