"""Reads the numbers of a whole dataset, one episode at a time, for the page's statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError
from flux_core.norm_stats import FeatureStats

from ..lerobot.dataset import Columns, LeRobotDataset
from ..lerobot.state_action import dimension_names, joined, usual_columns, width_of
from ..lerobot.statistics import RunningStats
from .distribution import Histograms, Panel, pair_dimensions, panel_range

Advance = Callable[[str, int, int], None]
"""Called with the name of the work, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class TaskCount:
    """One task's text and how often it occurs."""

    text: str
    num_episodes: int
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The numbers and tasks of all episodes together.

    Attributes:
        episode_tasks: the texts of each episode's tasks, by position.
        tasks: every task, those of the metadata first.
        panels: the quantities, state and action of one name together.
        ranges: smallest and largest value of each panel.
        stats: feature key -> statistics of its finite values.
        num_not_finite: feature key -> number of values left out as not finite, (dim,).
        counts: feature key -> histogram over each panel's range, (panels, bins).
    """

    episode_tasks: tuple[tuple[str, ...], ...]
    tasks: tuple[TaskCount, ...]
    panels: tuple[Panel, ...]
    ranges: tuple[tuple[float, float], ...]
    stats: Mapping[str, FeatureStats]
    num_not_finite: Mapping[str, NDArray[np.int64]]
    counts: Mapping[str, NDArray[np.int64]]


def number_keys(source: LeRobotDataset) -> tuple[str, ...]:
    """Returns those of state and action that the dataset has."""
    return tuple(usual_columns(source.info["features"]))


def read_numbers(source: LeRobotDataset, position: int) -> dict[str, NDArray[np.float64]]:
    """Returns state and action of one episode, (frames, dim) each, whatever their columns' names.

    Raises:
        DataError: the number of dimensions differs from info.json's, or the file cannot be read.
    """
    columns = usual_columns(source.info["features"])
    read = _read(source, position)
    numbers = {key: _vectors(source, position, key, read[key]) for key in _flat(columns)}
    return {what: joined(numbers, keys) for what, keys in columns.items()}


def _vectors(
    source: LeRobotDataset, position: int, key: str, values: NDArray[Any]
) -> NDArray[np.float64]:
    """Returns a column as (frames, dim)."""
    dims = width_of(source.info["features"], [key])
    numbers = values.reshape(len(values), -1).astype(np.float64)
    if len(values) and numbers.shape[1] != dims:
        raise DataError(
            f"{source.data_file(position)}: {key}: expected {dims} dimensions (info.json), "
            f"got {numbers.shape[1]}"
        )
    return numbers.reshape(len(values), dims)


def _read(source: LeRobotDataset, position: int) -> Columns:
    columns = usual_columns(source.info["features"])
    return source.read_episode(position, [*_flat(columns), "task_index"])


def _flat(columns: Mapping[str, Sequence[str]]) -> list[str]:
    return [key for keys in columns.values() for key in keys]


def read_survey(source: LeRobotDataset, advance: Advance) -> Survey:
    """Reads every episode twice: for the statistics, then for histograms over their ranges."""
    features = source.info["features"]
    running = {
        what: RunningStats(width_of(features, columns), source.num_frames)
        for what, columns in usual_columns(features).items()
    }
    tasks = _Tasks(source.tasks)
    for position in range(source.num_episodes):
        for key, values in read_numbers(source, position).items():
            running[key].add(values)
        tasks.add(_read(source, position)["task_index"])
        advance("numbers", position + 1, 2 * source.num_episodes)
    stats = {key: each.result() for key, each in running.items()}
    panels = pair_dimensions(dimension_names(features))
    ranges = tuple(panel_range(panel, stats) for panel in panels)
    histograms = Histograms(panels, ranges)
    for position in range(source.num_episodes):
        histograms.add(read_numbers(source, position))
        advance("numbers", source.num_episodes + position + 1, 2 * source.num_episodes)
    return Survey(
        episode_tasks=tuple(tasks.of_episodes),
        tasks=tasks.counts(),
        panels=panels,
        ranges=ranges,
        stats=stats,
        num_not_finite={key: each.num_not_finite for key, each in running.items()},
        counts=histograms.counts,
    )


class _Tasks:
    """Counts tasks; a task that the metadata lacks is identified by its number."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = {index: str(text) for index, text in texts.items()}
        self._frames: Counter[int] = Counter(dict.fromkeys(texts, 0))
        self._episodes: Counter[int] = Counter()
        self.of_episodes: list[tuple[str, ...]] = []

    def add(self, task_index: NDArray[np.generic]) -> None:
        indices, frames = np.unique(task_index, return_counts=True)
        for index, count in zip(indices.tolist(), frames.tolist(), strict=True):
            self._frames[index] += count
            self._episodes[index] += 1
        self.of_episodes.append(tuple(self._text(index) for index in indices.tolist()))

    def counts(self) -> tuple[TaskCount, ...]:
        return tuple(
            TaskCount(text=self._text(i), num_episodes=self._episodes[i], num_frames=frames)
            for i, frames in self._frames.items()
        )

    def _text(self, index: int) -> str:
        return self._texts.get(index, f"task_index {index}, which the metadata does not list")
