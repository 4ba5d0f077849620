"""Runs one sample through training's transforms and through the robot's, and compares the results.

The table of fields says what may differ; this also finds what no field shows, such as a class that
changes something on one side only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..norm_stats import FeatureStats, compute_stats
from ..robots.spec import RobotSpec
from ..tokenizers import Tokenizer
from ..transforms import (
    DatasetInputs,
    ImageNormalization,
    Normalization,
    Pipeline,
    Sample,
    Tokenization,
    Transform,
    UnitStep,
)
from ..transforms.inverses import check_undone

logger = logging.getLogger("flux.config")

STEPS, HEIGHT, WIDTH, REACH = 4, 24, 32, 3.0
TOLERANCE = 1e-4
"""Of normalised states; float32 rounding is a thousand times smaller."""


def rehearse(
    trained: Pipeline,
    robot: Pipeline,
    sample: Sample,
    kept: Sequence[int],
    *,
    reads_state: bool,
    tokenizers: tuple[Tokenizer, Tokenizer] | None = None,
) -> Iterator[str]:
    """Yields what differs for one sample, as a text after the dotted paths.

    Args:
        trained: training's transforms.
        robot: the robot's, with its denormalisation.
        sample: what the transforms after training's first one get: `images`, `states`, `actions`,
            `task_description`, `stats`.
        kept: the positions of the robot's cameras among those of training.
        reads_state: whether the network has an input for the state.
        tokenizers: training's and the robot's; None to compare the prompts' texts only.
    """
    ours, theirs = tokenizers or (None, None)
    try:
        recorded = _in_robot_units(trained, sample)
        expected = _encoded(trained, recorded, ours)
    except Exception as error:  # noqa: BLE001 custom code may raise anything on such a sample
        logger.debug("%s: cannot be rehearsed: %s", trained.where, error)
        return
    seen = {name: value for name, value in recorded.items() if "action" not in name}
    seen["images"] = [recorded["images"][place] for place in kept]
    seen["image_masks"] = np.ones(len(kept), np.bool_)
    try:
        found = _encoded(robot, seen, theirs)
    except Exception as error:  # noqa: BLE001 likewise
        yield f"the robot's transforms fail on an observation that training's accept: {error}"
        return
    yield from _state(expected, found, reads_state=reads_state)
    yield from _prompt(expected, found)
    yield from _images(expected, found, kept)
    yield from _pixel_ranges(trained, robot, kept)
    yield from _way_back(robot, recorded, expected)


def random_sample(trained: Pipeline, robot: RobotSpec, num_cameras: int) -> Sample:
    """Returns a random sample of a robot, with random statistics of what its transforms make."""
    random = np.random.default_rng(0)

    def values(*shape: int) -> NDArray[np.float32]:
        return random.uniform(-REACH, REACH, shape).astype(np.float32)

    sample: Sample = {
        "states": values(robot.state_dim),
        "actions": values(STEPS, robot.action_dim),
        "action_masks": np.ones(STEPS, np.bool_),
        "images": random.integers(0, 256, (num_cameras, HEIGHT, WIDTH, 3), dtype=np.uint8),
        "image_masks": np.ones(num_cameras, np.bool_),
        "camera_names": tuple(f"camera_{i}" for i in range(num_cameras)),
        "task_description": "fold the towel",
        "rng": random,
        "stats": {},
    }
    return {**sample, "stats": _statistics(trained, sample, values(50, 1024))}


def _statistics(
    trained: Pipeline, sample: Sample, values: NDArray[np.float32]
) -> Mapping[str, FeatureStats]:
    """Random statistics, as wide as states and actions are where they are normalised."""
    widths = {name: sample[name].shape[-1] for name in ("states", "actions")}
    try:
        for step in trained.transforms:
            if isinstance(step, Normalization):
                break
            if not (isinstance(step, DatasetInputs) or _is_left_out(step)):
                sample = step(sample)
        widths = {name: np.asarray(sample[name]).shape[-1] for name in widths}
    except Exception as error:  # noqa: BLE001 likewise
        logger.debug("%s: random statistics have the robot's width: %s", trained.where, error)
    state_key, action_key = trained.statistic_names
    return {
        state_key: compute_stats(values[:, : widths["states"]]),
        action_key: compute_stats(values[:, -widths["actions"] :] * 2.0 + 1.0),
    }


def _in_robot_units(trained: Pipeline, sample: Sample) -> Sample:
    """Converts a recording to the robot's units: the leading unit steps that only training has."""
    for step in trained.unit_steps:
        if not (step.training_only and _changes_actions(step)):
            break
        sample = step(sample)
    return sample


def _encoded(pipeline: Pipeline, sample: Sample, tokenizer: Tokenizer | None) -> Sample:
    """Runs what is outside the network; `sample` is in the robot's units."""
    is_leading = True
    for step in pipeline.transforms:
        if isinstance(step, UnitStep):
            is_leading = is_leading and step.training_only and _changes_actions(step)
            if is_leading:
                continue
        if isinstance(step, DatasetInputs) or step.in_graph or _is_left_out(step):
            continue
        if isinstance(step, Tokenization):
            if tokenizer is None:
                sample = step.write_prompt(sample)
            else:
                sample = step.process(sample, tokenizer)
        else:
            sample = step(sample)
    return sample


def _is_left_out(step: Transform) -> bool:
    """Whether a step is for training only and does not change the units of actions."""
    return step.training_only and not (isinstance(step, UnitStep) and _changes_actions(step))


def _changes_actions(step: UnitStep) -> bool:
    return step.action_affine is not None or step.relative_mask is not None


def _state(expected: Sample, found: Sample, *, reads_state: bool) -> Iterator[str]:
    ours, theirs = (np.asarray(side["states"], np.float32) for side in (expected, found))
    if reads_state and ours.shape != theirs.shape:
        yield (
            f"the network's state has {ours.shape[-1]} dimensions in training and "
            f"{theirs.shape[-1]} on the robot (state_dim, or the padding of 'states')"
        )
    width = min(ours.shape[-1], theirs.shape[-1])
    is_off = ~np.isclose(ours[:width], theirs[:width], rtol=TOLERANCE, atol=TOLERANCE)
    if is_off.any():
        dim = int(np.argmax(is_off))
        yield (
            f"dimension {dim} of one state is {ours[dim]:.6g} for the network in training and "
            f"{theirs[dim]:.6g} on the robot"
        )


def _prompt(expected: Sample, found: Sample) -> Iterator[str]:
    ours, theirs = (side.get("prompt") for side in (expected, found))
    if ours != theirs:
        yield f"the prompt is {ours!r} in training and {theirs!r} on the robot"
        return
    for name in ("lang_tokens", "lang_masks"):
        if name in expected and not np.array_equal(expected[name], found[name]):
            yield f"the same prompt {ours!r} has other tokens on the robot than in training"
            return


def _images(expected: Sample, found: Sample, kept: Sequence[int]) -> Iterator[str]:
    for place, number in enumerate(kept):
        ours, theirs = np.asarray(expected["images"][number]), np.asarray(found["images"][place])
        if ours.shape != theirs.shape:
            yield f"the image of camera {number} is {ours.shape} in training, {theirs.shape} here"
            return
        # A resize while decoding may round differently.
        if np.abs(ours.astype(np.float32) - theirs.astype(np.float32)).mean() > 2.0:
            yield (
                f"the image of camera {number} reaches the network differently on the robot: mean "
                f"{ours.mean():.4g} in training, {theirs.mean():.4g} on the robot"
            )
            return


def _pixel_ranges(trained: Pipeline, robot: Pipeline, kept: Sequence[int]) -> Iterator[str]:
    every = [str(place) for place in range(max(kept) + 1)]
    own = trained.with_cameras([every[place] for place in kept], every)
    steps = [side.maybe(ImageNormalization) for side in (own, robot)]
    if steps[0] is None or steps[1] is None:
        return  # told by the comparison of fields
    try:
        ours, theirs = (step.affine(len(kept)) for step in steps if step is not None)
    except ConfigError as error:
        yield str(error)
        return
    for name, before, now in zip(("scale", "offset"), ours, theirs, strict=True):
        if not np.allclose(before, now, rtol=1e-5):
            yield f"the {name} of pixels is {before.tolist()} in training, {now.tolist()} here"


def _way_back(robot: Pipeline, recorded: Sample, expected: Sample) -> Iterator[str]:
    """The robot's inverse must restore the actions that training's transforms were given."""
    actions = np.asarray(recorded["actions"])
    dims = actions.shape[-1]
    try:
        inverse = robot.action_inverse(recorded["stats"], dims)
        dims = len(inverse.scale)
        # A robot that is commanded by differences may have fewer states; none is added then.
        states = np.asarray(recorded["states"])
        states = np.pad(states, (0, max(dims - len(states), 0)))
        before = {"actions": actions[..., :dims], "states": states}
        check_undone(before, expected, inverse, "actions", robot.action_rules(actions.shape[-1]))
    except (ConfigError, ValueError) as error:
        yield f"the robot would not restore training's actions: {error}"
