"""Compares the robot's whole section with the whole training section.

It is done when a config is bound, before the first step (when the data is known too), at export and
when a bundle is run. `rules` lists every field: what must be equal, what may differ, and why.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches

from ..deployment import InferenceRunner
from ..robots.families import is_called
from ..robots.lookup import robot_spec_names
from ..transforms import DenormalizeActions, Normalization, Pipeline
from ..transforms.difference import Difference
from ..transforms.prompts import clean
from .cameras import check_camera_names, kept_cameras
from .finding import finding, refuse
from .rehearsal import random_sample, rehearse
from .trained import DATASETS, DataFacts, Network, Trained, TrainedDataset

logger = logging.getLogger("flux.config")

MISLABELLED_FPS: Mapping[str, tuple[float, ...]] = {"libero": (10.0,)}
"""Rates that datasets of a robot wrongly state: openpi's converter writes 10 for LIBERO's 20 Hz."""
FPS_TOLERANCE = 0.01
"""29.97 counts as 30."""


def check_agreement(
    inference: InferenceRunner,
    trained: Trained,
    path: str = "inference",
    *,
    is_bundle: bool = False,
) -> None:
    """Refuses a robot section that contradicts the training section.

    Args:
        inference: the robot's section.
        trained: the training section.
        path: the robot section's dotted path.
        is_bundle: whether they are of a bundle; see `kept_cameras`.

    Raises:
        ConfigError: one line with the dotted paths and both values of every contradiction.
    """
    network = trained.network
    findings = [*_chunks(inference, network, path), *_actions(inference, network, path)]
    _warn_of_sizes(inference, network, path)
    if trained.groups:
        group = inference.statistics_group(trained.groups, path)
        findings += _group(inference, group, trained.groups, path)
        for dataset in trained.groups[group]:
            if dataset.cameras is not None:
                check_camera_names(dataset.cameras, f"{dataset.where}.transforms.0.video_keys")
            findings += _dataset(inference, dataset, network, path, is_bundle=is_bundle)
    refuse(findings)


def check_data_agreement(
    inference: InferenceRunner, trained: Trained, path: str = "inference"
) -> None:
    """Refuses a robot that is not the one of the recordings.

    Raises:
        ConfigError: as `check_agreement`.
    """
    facts, where = _facts(inference, trained, path)
    if facts is not None:
        findings = [*_rate(inference, facts, where, path), *_widths(inference, facts, where, path)]
        refuse(findings or [*_order(inference, facts, where, path)])


def warn_of_untrained_tasks(
    inference: InferenceRunner, trained: Trained, path: str = "inference"
) -> None:
    """Logs one warning if the robot has tasks that are not in the recordings."""
    facts, _ = _facts(inference, trained, path)
    if facts is not None:
        tasks = inference.task_descriptions.values()
        warn_of_new_tasks(tasks, facts.tasks, f"{path}.task_descriptions")


def _facts(inference: InferenceRunner, trained: Trained, path: str) -> tuple[DataFacts | None, str]:
    """Returns the facts about the data of the robot's group, if they are known, and their place."""
    if trained.robot_facts is not None or not trained.facts:
        return trained.robot_facts, "the data of training"
    group = inference.statistics_group(trained.facts, path)
    return trained.facts[group], f"the data of {DATASETS}, group {group!r}"


def warn_of_new_tasks(tasks: Collection[str], trained: Sequence[str], where: str) -> None:
    """Logs one warning for all tasks that training never saw, each with the most similar one."""
    known = {clean(task): task for task in trained}
    new = [task for task in tasks if clean(task) not in known]
    if not new or not known:
        return
    lower = {task.lower(): task for task in known}
    near = [get_close_matches(clean(task).lower(), lower, n=1, cutoff=0.0)[0] for task in new]
    pairs = zip(new, near, strict=True)
    logger.warning(
        "%s: not among the %d tasks of training: %s",
        where,
        len(known),
        "; ".join(f"{task!r} (nearest: {lower[other]!r})" for task, other in pairs),
    )


def _dataset(
    inference: InferenceRunner,
    dataset: TrainedDataset,
    network: Network,
    path: str,
    *,
    is_bundle: bool,
) -> Iterator[str]:
    """Compares the robot with one dataset of training."""
    known, where = inference.spec.cameras, f"{path}.dataset"
    kept, findings = kept_cameras(dataset, inference.dataset, known, where, is_bundle=is_bundle)
    yield from findings
    told = [*_transforms(inference, dataset, kept, path), *_statistics(inference, dataset, path)]
    told += _embodiment(inference, dataset, path)
    yield from told
    if told or findings:
        return  # the rehearsal would tell the same again
    sample = random_sample(dataset.pipeline, inference.spec, max(kept) + 1)
    yield from rehearsed(inference, dataset, kept, sample, network, path)


def rehearsed(
    inference: InferenceRunner,
    dataset: TrainedDataset,
    kept: Sequence[int],
    sample: dict[str, object],
    network: Network,
    path: str,
) -> Iterator[str]:
    """Yields what the rehearsal of one sample finds, with both dotted paths."""
    for text in rehearse(
        dataset.pipeline, inference.pipeline, sample, kept, reads_state=network.reads_state
    ):
        yield f"{path}.dataset.transforms: differs from training ({dataset.pipeline.where}): {text}"


def _embodiment(inference: InferenceRunner, dataset: TrainedDataset, path: str) -> Iterator[str]:
    """Compares which weights of the network the robot uses."""
    robots = inference.dataset.embodiment
    if robots is not None and robots != dataset.embodiment:
        yield finding(
            f"{path}.dataset.embodiment_id",
            f"{dataset.where}.transforms.0.embodiment_id",
            expected=dataset.embodiment,
            got=robots,
        )


def _transforms(
    inference: InferenceRunner, dataset: TrainedDataset, kept: Sequence[int], path: str
) -> Iterator[str]:
    """Compares the transforms field by field."""
    cameras, dims = len(kept), inference.spec.action_dim
    names = [str(place) for place in range(max(kept, default=0) + 1)]
    own = dataset.pipeline.with_cameras([names[place] for place in kept], names)
    robots = inference.pipeline
    for difference in own.for_robot(cameras, dims).difference(robots.for_robot(cameras, dims)):
        places = [
            f"{dataset.pipeline.where}{_place(dataset.pipeline, difference, dataset.places)}",
            f"{path}.dataset.transforms{_place(robots, difference)}",
        ]
        yield f"{path}.dataset.transforms: {difference} ({places[0]} and {places[1]})"


def _place(pipeline: Pipeline, difference: Difference, places: Sequence[int] = ()) -> str:
    """'.2.norm_type' for a field of the third transform; empty if this side lacks the transform."""
    for place, step in enumerate(pipeline.transforms):
        if step.compared_as == difference.subject:
            number = places[place] if places else place
            return f".{number}.{difference.field}" if difference.field else f".{number}"
    return ""


def _statistics(inference: InferenceRunner, dataset: TrainedDataset, path: str) -> Iterator[str]:
    """Compares the names of the statistics, and how actions are denormalised."""
    normalize = dataset.pipeline.maybe(Normalization)
    if normalize is None:
        return
    place = dataset.places[dataset.pipeline.transforms.index(normalize)]
    trained_path = f"{dataset.pipeline.where}.{place}"
    for number, step in enumerate(inference.pipeline.transforms):
        if isinstance(step, Normalization):
            for name in ("state_key", "action_key"):
                ours, theirs = getattr(normalize, name), getattr(step, name)
                if ours != theirs:
                    robots = f"{path}.dataset.transforms.{number}.{name}"
                    yield finding(robots, f"{trained_path}.{name}", expected=ours, got=theirs)
    undo = inference.denormalize_action
    if undo.norm_type != normalize.norm_type:
        # A text of its own: training's value comes first, as people search for it.
        yield (
            f"{path}.denormalize_action.norm_type: expected {normalize.norm_type!r} as in "
            f"training, got {undo.norm_type!r} ({trained_path}.norm_type)"
        )
    if undo.action_keys != normalize.action_keys:
        yield finding(
            f"{path}.denormalize_action.action_keys",
            f"{trained_path}.action_keys",
            expected=normalize.action_keys,
            got=undo.action_keys,
        )
    if undo.action_key != normalize.action_key:
        yield finding(
            f"{path}.denormalize_action.action_key",
            f"{trained_path}.action_key",
            expected=normalize.action_key,
            got=undo.action_key,
            remedy="Actions would get the range of other numbers",
        )
    if type(undo) is not DenormalizeActions:
        yield finding(
            f"{path}.denormalize_action",
            trained_path,
            expected=DenormalizeActions.__name__,
            got=type(undo).__qualname__,
            remedy="Training has no counterpart of a class of your own",
        )


def _actions(inference: InferenceRunner, network: Network, path: str) -> Iterator[str]:
    """Refuses fewer actions than the robot has joints; more of them are padding."""
    dims, joints = inference.denormalize_action.action_dim, inference.spec.action_dim
    if network.action_dim < joints:
        yield finding(
            f"{path}.robot: joints of {inference.spec.name}",
            "at most the dimensions of the network's actions",
            expected=network.action_dim,
            got=joints,
        )
    if dims is not None and dims < joints:
        yield (
            f"{path}.denormalize_action.action_dim: expected at least {joints} (the joints of "
            f"{inference.spec.name}), got {dims}. Leave it out"
        )


def _warn_of_sizes(inference: InferenceRunner, network: Network, path: str) -> None:
    """Warns about sizes that have no effect beside the network's."""
    sizes = [
        (f"{path}.dataset.transforms: {type(step).__name__}", step.action_dim)
        for step in inference.pipeline.steps(Normalization)
        if step.action_dim != network.action_dim
    ]
    if (undone := inference.denormalize_action.action_dim or 0) > network.action_dim:
        sizes.append((f"{path}.denormalize_action", undone))
    for where, dims in sizes:
        if dims is not None:
            logger.warning(
                "%s.action_dim is %d beside a model of %d; the model's counts",
                *(where, dims, network.action_dim),
            )


def _chunks(inference: InferenceRunner, network: Network, path: str) -> Iterator[str]:
    """Compares steps and delays with the network's; raises for too many executed steps."""
    inference.steps_executed(network.action_horizon, path)
    rtc, horizon = inference.rtc_config, network.action_horizon
    if rtc is None or not rtc.enabled:
        return
    for name in ("prefix_len", "decay_end"):
        steps = getattr(rtc, name)
        if steps is not None and steps > horizon:
            yield finding(
                f"{path}.rtc_config.{name}",
                "at most model.n_action_steps",
                expected=horizon,
                got=steps,
            )
    if rtc.method != "prefix":
        return
    delays = network.rtc_delays
    if rtc.prefix_len is not None and rtc.prefix_len not in delays:
        yield finding(
            f"{path}.rtc_config.prefix_len",
            "the delays of model.rtc_training_config",
            expected=delays,
            got=rtc.prefix_len,
            remedy="Use one of these, or rtc_config.method='guidance'",
        )
    elif delays == (0,):
        logger.warning(
            "%s.rtc_config: method 'prefix' has no effect without model.rtc_training_config, which "
            "trains delays; method 'guidance' needs no training",
            path,
        )


def _group(
    inference: InferenceRunner, group: str, groups: Collection[str], path: str
) -> Iterator[str]:
    """Refuses the statistics of another robot where this one has its own."""
    robot = inference.spec.name
    owners = {name: _owner(name, {robot, *robot_spec_names()}) for name in groups}
    own = [name for name, owner in owners.items() if owner and is_called(robot, owner)]
    if owners[group] and group not in own and own:
        yield finding(
            f"{path}.statistic_name",
            f"the groups of {DATASETS} that {robot} is named in",
            expected=own[0] if len(own) == 1 else tuple(own),
            got=group,
        )


def _owner(group: str, robots: Collection[str]) -> str | None:
    """Returns the robot whose name a group's name begins with; 'aloha-sim' before 'aloha'."""
    return max((name for name in robots if group.startswith(name)), key=len, default=None)


def _rate(inference: InferenceRunner, facts: DataFacts, where: str, path: str) -> Iterator[str]:
    """Refuses a robot that would play the recordings at another speed."""
    fps, hz, robot = facts.fps, inference.spec.control_hz, inference.spec.name
    if math.isclose(fps, hz, rel_tol=FPS_TOLERANCE):
        return
    if any(math.isclose(fps, known, rel_tol=1e-6) for known in MISLABELLED_FPS.get(robot, ())):
        logger.warning(
            "%s.robot.control_hz: %s states %g fps, and %s runs at %g Hz: taken for recordings at "
            "%g Hz, whose converter writes %g",
            *(path, where, fps, robot, hz, hz, fps),
        )
    elif inference.allow_rate_change:
        logger.warning(
            "%s.robot.control_hz: %s has %g fps, and %s runs at %g Hz: movements are %.3g times as "
            "fast as recorded (%s.allow_rate_change)",
            *(path, where, fps, robot, hz, hz / fps, path),
        )
    else:
        yield (
            f"{path}.robot.control_hz: expected {fps:g}, the fps of training ({where}), got "
            f"{hz:g}: movements would be {hz / fps:.3g} times as fast as recorded. Describe the "
            f"robot with control_hz={fps:g}, record at {hz:g} fps, or set "
            f"{path}.allow_rate_change=true"
        )


def _widths(inference: InferenceRunner, facts: DataFacts, where: str, path: str) -> Iterator[str]:
    """Refuses a robot with other dimensions than the recordings; wider actions are cut."""
    spec = inference.spec
    if facts.state_dim != spec.state_dim:
        yield finding(
            f"{path}.robot: dimensions of the state of {spec.name}",
            where,
            expected=facts.state_dim,
            got=spec.state_dim,
        )
    if facts.action_dim < spec.action_dim:
        yield finding(
            f"{path}.robot: joints of {spec.name}",
            where,
            expected=facts.action_dim,
            got=spec.action_dim,
        )
    elif facts.action_dim > spec.action_dim:
        logger.warning(
            "%s.robot: %s has %d dimensions of actions, %s %d joints; the other dimensions are "
            "trained but not executed",
            *(path, where, facts.action_dim, spec.name, spec.action_dim),
        )


def _order(inference: InferenceRunner, facts: DataFacts, where: str, path: str) -> Iterator[str]:
    """Refuses joints in another order than the recordings; joints of other names are not told."""
    spec = inference.spec
    states = spec.state_names if spec.is_commanded_by_differences else spec.joint_names
    for field, trained, robots in (
        ("joint_names", facts.action_names, spec.joint_names),
        ("state_names" if spec.state_names else "joint_names", facts.state_names, states),
    ):
        for place, (name, ours) in enumerate(zip(robots, trained, strict=False)):
            if name != ours and trained.count(name) == 1:
                yield finding(
                    f"{path}.robot.{field}.{place}",
                    where,
                    expected=ours,
                    got=name,
                    remedy="The dimensions have the order of the recordings",
                )
                break
