"""Training and robot sections of a config must agree; see `flux_core.agreement`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping

import numpy as np

from flux_core.agreement import (
    DataFacts,
    Network,
    Trained,
    TrainedDataset,
    check_agreement,
    check_camera_names,
    check_data_agreement,
    kept_cameras,
    refuse,
    rehearse,
    warn_of_untrained_tasks,
)
from flux_core.deployment import InferenceRunner, InferenceSections
from flux_core.errors import ConfigError, RobotError
from flux_core.models import FlowPolicy, network_facts
from flux_core.robots import RobotSpec, limits_in_force, robot_spec, robot_spec_names
from flux_core.tokenizers import PretrainedTokenizer, Tokenizer
from flux_core.transforms import (
    Augmentation,
    DatasetInputs,
    Normalization,
    Sample,
    StateAugmentation,
    Tokenization,
)
from flux_data.lerobot import ACTION
from flux_data.samples import DistributedRepeatingDataset, ParquetDataset

logger = logging.getLogger("flux.config")


Mixture = DistributedRepeatingDataset.Config


def robot_sections(section: InferenceSections | None) -> dict[str, InferenceRunner]:
    """Returns the robots' sections by their dotted paths."""
    if section is None:
        return {}
    if isinstance(section, Mapping):
        return {f"inference.{key}": runner for key, runner in section.items()}
    return {"inference": section}


def check_robot_sections(
    model: FlowPolicy.Config, mixture: Mixture, sections: InferenceSections | None
) -> None:
    """Refuses a robot section that contradicts the training section.

    Raises:
        ConfigError: with the dotted paths and both values.
    """
    trained = _trained(model, mixture)
    for members in trained.groups.values():
        for member in members:
            _check_cameras(member, has_robot=sections is not None)
    _check_statistics(mixture, has_robot=sections is not None)
    for path, inference in robot_sections(sections).items():
        _warn_of_wider_limits(inference.spec, path)
        check_agreement(inference, trained, path)


def _check_cameras(member: TrainedDataset, *, has_robot: bool) -> None:
    """Refuses a dataset without cameras; without a robot, warns of a camera that is shown twice.

    FluxVLA's own config for two robots fills up the second robot's pictures in this way. A robot
    whose cameras these are is refused with its other contradictions.
    """
    where = f"{member.where}.transforms.0.video_keys"
    if not member.cameras:
        raise ConfigError(f"{where}: expected at least one camera, got none")
    if has_robot:
        return
    try:
        check_camera_names(member.cameras, where)
    except ConfigError as error:
        logger.warning("%s. Both are trained on", error)


def check_robots_with_data(
    model: FlowPolicy.Config,
    sections: InferenceSections | None,
    dataset: DistributedRepeatingDataset,
) -> None:
    """Refuses a robot that contradicts the data: its rate, its dimensions, and a sample of it.

    Raises:
        ConfigError: with the dotted paths and both values.
    """
    trained = _trained(model, dataset.config)
    check_robot_facts(model, dataset.config, sections, data_facts(dataset))
    for path, inference in robot_sections(sections).items():
        group = inference.statistics_group(trained.groups, path)
        names = dataset.group_of_datasets
        members = [m for m, name in zip(dataset.datasets, names, strict=True) if name == group]
        for told, member in zip(trained.groups[group], members, strict=True):
            if len(member):
                refuse([*_rehearsed(inference, told, member, trained.network, path)])


def check_robot_facts(
    model: FlowPolicy.Config,
    mixture: Mixture,
    sections: InferenceSections | None,
    facts: Mapping[str, DataFacts],
) -> None:
    """Refuses a robot that contradicts the facts about its group's data.

    Raises:
        ConfigError: with the dotted paths and both values.
    """
    trained = dataclasses.replace(_trained(model, mixture), facts=facts)
    for path, inference in robot_sections(sections).items():
        check_data_agreement(inference, trained, path)


def warn_of_tasks(
    model: FlowPolicy.Config,
    sections: InferenceSections | None,
    dataset: DistributedRepeatingDataset,
) -> None:
    """Logs one warning per robot that has tasks which are not in the data."""
    trained = dataclasses.replace(_trained(model, dataset.config), facts=data_facts(dataset))
    for path, inference in robot_sections(sections).items():
        warn_of_untrained_tasks(inference, trained, path)


def data_facts(dataset: DistributedRepeatingDataset) -> dict[str, DataFacts]:
    """Returns the facts about each group's recordings that the robot must fit."""
    facts: dict[str, DataFacts] = {}
    for name in dataset.group_names:
        named = zip(dataset.group_of_datasets, dataset.datasets, strict=True)
        parts = [part for group, member in named if group == name for part in member.parts]
        texts = (task for part in parts for task in part.source.tasks.values())
        facts[name] = DataFacts(
            fps=float(parts[0].source.fps),
            state_dim=parts[0].state_dim,
            action_dim=parts[0].action_dim,
            tasks=tuple(dict.fromkeys(texts)),
            state_names=parts[0].state_names,
            action_names=parts[0].action_names,
        )
    return facts


def _trained(model: FlowPolicy.Config, mixture: Mixture) -> Trained:
    groups = {
        name: tuple(_told(member, where) for where, member in members)
        for name, members in _placed(mixture).items()
    }
    return Trained(network=network_facts(model), groups=groups)


def _placed(mixture: Mixture) -> dict[str, list[tuple[str, ParquetDataset.Config]]]:
    """Returns each group's datasets with their dotted paths."""
    groups: dict[str, list[tuple[str, ParquetDataset.Config]]] = {
        name: [] for name in mixture.groups()
    }
    for place, group, member in mixture.members():
        groups[group].append((f"train_dataloader.dataset.{place}", member))
    return groups


def _told(dataset: ParquetDataset.Config, where: str) -> TrainedDataset:
    inputs = dataset.pipeline.maybe(DatasetInputs)
    pipeline = dataclasses.replace(dataset.pipeline, where=f"{where}.transforms")
    return TrainedDataset(
        where=where,
        pipeline=pipeline,
        places=tuple(range(len(pipeline.transforms))),
        cameras=() if inputs is None else inputs.video_keys,
        embodiment=None if inputs is None else inputs.embodiment,
    )


def _check_statistics(mixture: Mixture, *, has_robot: bool) -> None:
    """Refuses statistics of other columns than those that are normalised with them."""
    for members in _placed(mixture).values():
        for where, member in members:
            if has_robot and ACTION in member.state_columns:
                raise ConfigError(
                    f"{where}.state_key: expected what the robot measures, got {ACTION!r}, which "
                    "holds commands"
                )
            if mixture.statistic_keys is None:
                continue
            measured = {
                name: (key,)
                for key in mixture.statistic_keys
                for name in mixture.name_mappings.get(key, (key,))
            }
            if member.pipeline.maybe(Normalization) is None:
                continue
            names = member.pipeline.statistic_names
            columns = (member.state_columns, member.action_columns)
            for field, name, own in zip(("state_key", "action_key"), names, columns, strict=True):
                if measured.get(name) != own:
                    got = measured.get(name, ("no column",))
                    raise ConfigError(
                        f"train_dataloader.dataset.name_mappings: {name!r}: expected the "
                        f"statistics of {', '.join(own)}, which {where}.{field} reads, got those "
                        f"of {got[0]}. Use statistic_keys=None to measure them"
                    )


def _warn_of_wider_limits(spec: RobotSpec, path: str) -> None:
    """Warns at the start of training if the robot's driver would refuse the bundle."""
    if spec.name in robot_spec_names():
        try:
            limits_in_force(robot_spec(spec.name), spec)
        except RobotError as error:
            logger.warning(
                "%s.robot: it is not the %r that is known here, whose driver will refuse "
                "the bundle: %s",
                *(path, spec.name, error),
            )


def _rehearsed(
    inference: InferenceRunner,
    told: TrainedDataset,
    member: ParquetDataset,
    network: Network,
    path: str,
) -> Iterator[str]:
    """Runs one sample of the data through both sides."""
    sample = member.untransformed(0, np.random.default_rng(0))
    inputs = member.pipeline.maybe(DatasetInputs)
    assert inputs is not None, "ParquetDataset checks that it is the first transform"
    named = inputs(sample)
    if not inputs.is_ours:
        yield from _own_inputs(inputs, sample, named, told.where)
    if type(member) is not ParquetDataset:
        yield from _own_dataset(member, sample, told.where)
    known, where = inference.spec.cameras, f"{path}.dataset"
    kept, _ = kept_cameras(told, inference.dataset, known, where, is_bundle=False)
    tokenizers = _tokenizers(told, inference)
    for text in rehearse(
        told.pipeline,
        inference.pipeline,
        named,
        kept,
        reads_state=network.reads_state,
        tokenizers=tokenizers,
    ):
        yield f"{path}.dataset.transforms: differs from training ({told.pipeline.where}): {text}"


def _own_inputs(inputs: DatasetInputs, sample: Sample, named: Sample, where: str) -> Iterator[str]:
    """A class of a user's own may rename columns; the robot does nothing of what else it does."""
    frames = zip(sample["images"], named["images"], strict=False)
    for name, is_same in (
        ("states", np.array_equal(sample["states"], named["states"])),
        ("actions", np.array_equal(sample["actions"], named["actions"])),
        ("images", all(np.array_equal(before, after) for before, after in frames)),
    ):
        if not is_same:
            yield (
                f"{where}.transforms.0: {type(inputs).__qualname__}: expected {name} as recorded, "
                "got others, and the robot does not change them. Use a transform of both sides"
            )


def _own_dataset(member: ParquetDataset, sample: Sample, where: str) -> Iterator[str]:
    """What a dataset of a user's own does beside its transforms, the robot does not do."""
    expected = member.pipeline.without(Augmentation)(sample)
    found = member.sample(0, np.random.default_rng(0))
    # A state that is changed at random differs from call to call.
    states = () if member.pipeline.maybe(StateAugmentation) else ("states",)
    for name in (*states, "actions", "lang_tokens"):
        if name in expected and not np.array_equal(expected[name], np.asarray(found[name])):
            yield (
                f"{where}: {type(member).__qualname__}: expected {name} as its transforms make "
                "them, got others, and the robot has only the transforms. Use a transform"
            )


def _tokenizers(
    told: TrainedDataset, inference: InferenceRunner
) -> tuple[Tokenizer, Tokenizer] | None:
    ours, theirs = (side.maybe(Tokenization) for side in (told.pipeline, inference.pipeline))
    if ours is None or theirs is None:
        return None
    trained = ours.tokenizer.load()
    # Without a path it is the one beside the checkpoint, which is training's.
    is_trained = theirs.tokenizer == PretrainedTokenizer()
    return trained, trained if is_trained else theirs.tokenizer.load()
