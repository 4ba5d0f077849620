"""Statistics of a group of datasets, and the summary of their data, in one pass over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms import UnitStep

from ..lerobot.dataset import Columns
from ..lerobot.state_action import bases_of, joined
from ..lerobot.statistics import RunningStats
from .windows import DatasetPart, ParquetDataset

Names = Mapping[str, tuple[str, ...]]
"""The name of each statistic -> the columns that it describes."""

RANGES = ("min", "max", "q01", "q99")
"""What the summary holds of each quantity."""

RELATIVE = "relative actions"

GRIPPER_NAMES = ("gripper", "finger", "claw", "jaw")
"""A dimension whose name contains one of these is a gripper's."""


def compute_group(
    group: Sequence[ParquetDataset], measured: Sequence[Names]
) -> tuple[dict[str, FeatureStats], dict[str, object]]:
    """Computes the statistics of a group and the summary of its data, one episode at a time.

    Memory does not grow with the number of frames; `RunningStats` states how exact the numbers are.

    Args:
        group: the datasets, which are alike.
        measured: for each, what to compute statistics of.

    Returns:
        The statistics by name, and the summary as plain data, in robot units: `fps`, `episodes`,
        `frames`, the ranges of `state` and `action` (per dimension), the same of the first frame
        of each episode in `start`, and the closed and open values of `grippers`.

    Raises:
        ConfigError: some of the datasets have relative actions, others not.
        DataError: a value is missing or not finite, or a dataset has no window of relative actions.
    """
    if len({dataset.pipeline.is_relative for dataset in group}) > 1:
        raise ConfigError(
            "transforms: expected relative actions in all datasets of a group, or in none"
        )
    parts = [part for dataset in group for part in dataset.parts]
    frames = sum(part.source.num_frames for part in parts)
    episodes = sum(part.source.num_episodes for part in parts)
    windows = _Pass(sum(len(part) * part.config.action_window_size for part in parts))
    rows, raw, starts = _Pass(frames), _Pass(frames), _Pass(episodes)
    for dataset, names in zip(group, measured, strict=True):
        for part, position, columns in _episodes(dataset, names):
            for name, keys in names.items():
                rows.add(name, dataset.in_own_units(name, joined(columns, keys)))
            for quantity, values in _state_and_actions(part, columns):
                raw.add(quantity, values)
                starts.add(quantity, values[:1])
            for values in _relative(dataset, part, columns, position):
                windows.add(RELATIVE, values)
    stats = rows.result()
    if windows.has_rows:
        stats[group[0].pipeline.statistic_names[1]] = windows.result()[RELATIVE]
    facts = {"fps": parts[0].source.fps, "episodes": episodes, "frames": frames}
    ranges = _ranges(raw)
    return stats, {
        **facts,
        **ranges,
        "start": _ranges(starts),
        "grippers": grippers_of(
            ranges, {"state": parts[0].state_names, "action": parts[0].action_names}
        ),
    }


def grippers_of(
    ranges: Mapping[str, Mapping[str, Sequence[float]]], names: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Returns gripper -> 'state' and 'action' -> its `closed` and `open` value.

    They are the quantiles q01 and q99: the lower value is the closed one, as in every robot's
    description, and a single outlier is neither.

    Args:
        ranges: 'state' and 'action' -> `q01` and `q99`, per dimension.
        names: the same -> the name of each dimension; a gripper is known by its name.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for quantity, labels in names.items():
        for dim, label in enumerate(labels):
            if any(word in label.lower() for word in GRIPPER_NAMES):
                values = {
                    "closed": ranges[quantity]["q01"][dim],
                    "open": ranges[quantity]["q99"][dim],
                }
                found.setdefault(label, {})[quantity] = values
    return found


def _episodes(dataset: ParquetDataset, names: Names) -> Iterator[tuple[DatasetPart, int, Columns]]:
    """Yields each episode's part, position and columns, (frames, dim) each."""
    config = dataset.config
    keys = (*config.state_columns, *config.action_columns)
    keys = bases_of((*keys, *(key for each in names.values() for key in each)))
    for part in dataset.parts:
        for position, columns in enumerate(part.source.episodes(keys)):
            yield part, position, {k: v.reshape(len(v), -1) for k, v in columns.items()}


def _state_and_actions(
    part: DatasetPart, columns: Columns
) -> Iterator[tuple[str, NDArray[np.floating]]]:
    yield "state", joined(columns, part.config.state_columns)
    yield "action", joined(columns, part.config.action_columns)


def _relative(
    dataset: ParquetDataset, part: DatasetPart, columns: Columns, position: int
) -> Iterator[NDArray[np.floating]]:
    """Yields the episode's relative actions; none if actions are absolute."""
    if not dataset.pipeline.is_relative:
        return
    if not len(part):
        raise part.without_windows()
    steps: Sequence[UnitStep] = dataset.pipeline.unit_steps
    yield from part.converted_windows(steps, columns, position)


def _ranges(values: _Pass) -> dict[str, dict[str, list[float]]]:
    return {
        quantity: {name: list(getattr(stats, name)) for name in RANGES}
        for quantity, stats in values.result().items()
    }


class _Pass:
    """Statistics of some names, for values that arrive in parts."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._running: dict[str, RunningStats] = {}

    @property
    def has_rows(self) -> bool:
        return bool(self._running)

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Adds (rows, dim) values."""
        if name not in self._running:
            self._running[name] = RunningStats(values.shape[1], self._max_rows)
        self._running[name].add(values)

    def result(self) -> dict[str, FeatureStats]:
        """Returns the statistics by name.

        Raises:
            DataError: a value is not finite.
        """
        for name, running in self._running.items():
            for dim in np.flatnonzero(running.num_not_finite)[:1]:
                raise DataError(
                    f"statistics of {name}: expected finite numbers, got "
                    f"{running.num_not_finite[dim]} others in dimension {dim}"
                )
        return {name: running.result() for name, running in self._running.items()}
