"""What training did, as far as it concerns the robot: from a bound config, or from plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..config import bind
from ..config.compat import current_type
from ..config.installed import registration
from ..errors import ConfigError
from ..robots import embodiment_number
from ..transforms import Pipeline, Transform

DATASETS = "train_dataloader.dataset.datasets"
_INPUTS = "video_keys"
"""The first transform of a dataset has this key. It belongs to flux_data, which a robot lacks."""
_MAX_TASKS = 1000
FACTS_KEY = "data"
"""The key of a manifest's provenance that holds `DataFacts`."""


@dataclass(frozen=True, kw_only=True)
class TrainedDataset:
    """One dataset of a training section.

    Attributes:
        where: its dotted path.
        pipeline: its transforms; `pipeline.where` is their dotted path.
        places: the position of each of them in the config's list.
        cameras: the columns of its cameras, in the network's order, without padded ones; None if
            a bundle left out the transform that reads them, as a class of the user's own.
        embodiment: which weights of the network it trains, if they differ between robots.
    """

    where: str
    pipeline: Pipeline
    places: tuple[int, ...]
    cameras: tuple[str, ...] | None
    embodiment: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Facts about the recordings of one group.

    Attributes:
        fps: frames per second.
        state_dim, action_dim: dimensions in the recordings, before any padding.
        tasks: the texts of the tasks.
        state_names, action_names: what the dimensions are called; older files do not say.
    """

    fps: float
    state_dim: int
    action_dim: int
    tasks: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """For a checkpoint or a bundle; the inverse of `from_data`."""
        sizes = {"fps": self.fps, "state_dim": self.state_dim, "action_dim": self.action_dim}
        names = {"state_names": self.state_names, "action_names": self.action_names}
        told = {key: list(value) for key, value in names.items() if value}
        return {**sizes, "tasks": list(self.tasks[:_MAX_TASKS]), **told}

    @classmethod
    def from_data(cls, data: object, where: str) -> DataFacts:
        """Reads plain data, which may come from a stranger.

        Raises:
            ConfigError: a key is missing or has another type.
        """
        facts: DataFacts = bind(cls, data, where)
        if not (0 < facts.fps < math.inf and facts.state_dim > 0 and facts.action_dim > 0):
            raise ConfigError(f"{where}: expected positive numbers, got {facts.as_data()!r:.200}")
        return facts


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a network takes and gives.

    Attributes:
        action_dim: dimensions of its actions, padding included.
        action_horizon: steps that it predicts.
        reads_state: whether the state is an input of its own, beside the prompt.
        rtc_delays: the delays of real-time chunking that it was trained with, in control steps.
    """

    action_dim: int
    action_horizon: int
    reads_state: bool
    rtc_delays: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The training section, and what is known about its data.

    Attributes:
        network: the network.
        groups: each group's datasets; empty if the training section is not known.
        facts: each group's facts; without an entry for a group whose data is not known.
        robot_facts: of the robot's own group, in a bundle, which knows no others.
    """

    network: Network
    groups: Mapping[str, Sequence[TrainedDataset]]
    facts: Mapping[str, DataFacts] = field(default_factory=dict[str, DataFacts])
    robot_facts: DataFacts | None = None


def datasets_of(
    config: Mapping[str, Any], *, is_bundle: bool = False
) -> dict[str, tuple[TrainedDataset, ...]]:
    """Reads the training section of a checkpoint's or bundle's config.

    flux_data need not be installed: its transform, which reads the columns, is not bound.

    Args:
        config: plain data whose types are known to be registered.
        is_bundle: whether it is of a bundle. Classes of other distributions that only its training
            section names are then left out, because nothing is imported that a robot does not use.

    Raises:
        ConfigError: the section is not one of flux_train's, or a transform cannot be bound.
    """
    used = _names(config.get("inference")) if is_bundle else None
    groups: dict[str, tuple[TrainedDataset, ...]] = {}
    for group, where, section in _sections(config):
        groups[group] = (*groups.get(group, ()), _dataset(section, where, used))
    return groups


def dataset_sections(config: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Returns each group's dataset sections in a checkpoint's or bundle's config, as plain data.

    Raises:
        ConfigError: the training section is not one of flux_train's.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for group, _, section in _sections(config):
        groups.setdefault(group, []).append(section)
    return groups


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yields the group, the dotted path and the section of every dataset."""
    loader = config.get("train_dataloader")
    if loader is None:
        return
    mixture = loader.get("dataset") if _is_mapping(loader) else None
    if not _is_mapping(mixture) or "datasets" not in mixture:
        raise ConfigError(f"{DATASETS}: expected datasets, got none")
    datasets: object = mixture["datasets"]
    # Statistics without a name of their own are called 'private' in checkpoints.
    alone = str(mixture.get("statistic_name", "private"))
    if _is_mapping(datasets) and "transforms" not in datasets:
        listed = [(str(name), f"{DATASETS}.{name}", group) for name, group in datasets.items()]
    else:
        listed = [(alone, DATASETS, datasets)]
    for name, where, group in listed:
        members = [(where, group)]
        if isinstance(group, list | tuple):
            members = [(f"{where}.{index}", member) for index, member in enumerate(group)]
        for place, member in members:
            if not _is_mapping(member):
                raise ConfigError(f"{place}: expected a dataset, got {member!r:.60}")
            yield name, place, member


def _names(section: object) -> set[str]:
    """Returns every `type` in plain data, at any depth."""
    if _is_mapping(section):
        own = {str(section["type"])} if "type" in section else set[str]()
        return own.union(*map(_names, section.values()))
    return set[str]().union(*map(_names, section)) if isinstance(section, list | tuple) else set()


def _is_left_out(entry: object, used: set[str] | None, where: str) -> bool:
    """Whether a transform is of another distribution and not among the `used` names."""
    if used is None or not _is_mapping(entry) or str(entry.get("type")) in used:
        return False
    found = registration(current_type(str(entry.get("type"))), where)
    return found is None or not found.is_ours


def _dataset(
    section: Mapping[str, Any], where: str, used: set[str] | None = None
) -> TrainedDataset:
    entries = section.get("transforms")
    if not isinstance(entries, list | tuple):
        raise ConfigError(f"{where}.transforms: expected a list of transforms, got {entries!r:.60}")
    cameras: tuple[str, ...] | None = None
    embodiment: int | None = None
    steps: dict[int, Transform] = {}
    for index, entry in enumerate(entries):
        if _is_mapping(entry) and _INPUTS in entry:
            place = f"{where}.transforms.{index}.{_INPUTS}"
            cameras = bind(tuple[str, ...], entry[_INPUTS], place)
            chosen = bind(int | str | None, entry.get("embodiment_id"), place)
            embodiment = None if chosen is None else embodiment_number(chosen)
        elif not _is_left_out(entry, used, f"{where}.transforms.{index}"):
            steps[index] = bind(Transform, entry, f"{where}.transforms.{index}")
    return TrainedDataset(
        where=where,
        pipeline=Pipeline(tuple(steps.values()), where=f"{where}.transforms"),
        places=tuple(steps),
        cameras=cameras,
        embodiment=embodiment,
    )


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)
