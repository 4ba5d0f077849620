"""One stream of samples over one or many datasets, in a new order every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats, NormStats, compute_stats

from .parquet_dataset import ParquetDataset

ACTION = "action"


class DistributedRepeatingDataset:
    """Concatenates datasets and computes their statistics.

    A dict of lists groups the datasets by robot, each group with statistics of its own.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """`statistic_keys` are dataset columns; `name_mappings` gives their names in `stats`.

        `min_range` (robot units): a dimension that spans less is normalised as if it spanned that.
        `dim`: every statistic of a state or action is padded to that many dimensions, for robots
        whose data PadKeyToDim pads.
        """

        datasets: (
            ParquetDataset.Config
            | tuple[ParquetDataset.Config, ...]
            | Mapping[str, tuple[ParquetDataset.Config, ...]]
        )
        statistic_keys: tuple[str, ...] = ("observation.state",)
        name_mappings: Mapping[str, tuple[str, ...]] = field(
            default_factory=lambda: {"observation.state": ("proprio", ACTION)}
        )
        statistic_name: str = "private"
        min_range: float = 0.0
        dim: int | None = None
        shuffle: bool = True
        seed: int = 42

        def groups(self) -> dict[str, tuple[ParquetDataset.Config, ...]]:
            """The datasets by robot."""
            datasets = self.datasets
            if isinstance(datasets, ParquetDataset.Config):
                return {self.statistic_name: (datasets,)}
            if isinstance(datasets, Mapping):
                return dict(datasets)
            return {self.statistic_name: tuple(datasets)}

        def build(self) -> DistributedRepeatingDataset:
            return DistributedRepeatingDataset(self)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.datasets: list[ParquetDataset] = []
        self.stats: dict[str, NormStats] = {}
        for name, members in config.groups().items():
            if not members:
                raise ConfigError(f"datasets.{name}: expected at least one dataset, got none")
            group = [member.build(config.statistic_keys) for member in members]
            self.stats[name] = group_stats(group, config)
            for dataset in group:
                dataset.stats = self.stats[name]
            self.datasets += group
        self._ends = np.cumsum([len(dataset) for dataset in self.datasets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return self.datasets[part][index - start]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Every index once; a function of (seed, epoch) alone."""
        if not self.config.shuffle:
            return np.arange(len(self))
        return np.random.default_rng((self.config.seed, epoch)).permutation(len(self))


class EpochBatches:
    """Batches of indices for one rank: all ranks together see every sample of an epoch once.

    The last incomplete batch of an epoch is left out, on every rank alike.
    """

    def __init__(
        self,
        dataset: DistributedRepeatingDataset,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        if len(self) == 0:
            raise DataError(
                f"train_dataloader: {len(dataset)} samples make no batch of "
                f"{batch_size} x {world_size} ranks. Lower per_device_batch_size or add episodes"
            )

    def __len__(self) -> int:
        return len(self.dataset) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.dataset.order(self.epoch)
        step = self.batch_size * self.world_size
        for first in range(0, len(self) * step, step):
            yield order[first : first + step][self.rank :: self.world_size].tolist()


def group_stats(
    group: list[ParquetDataset], config: DistributedRepeatingDataset.Config
) -> NormStats:
    """Exact statistics of a group under the names the transforms ask for."""
    stats: dict[str, FeatureStats] = {}
    for key in config.statistic_keys:
        values = np.concatenate([np.atleast_2d(dataset.column(key).T).T for dataset in group])
        for name in config.name_mappings.get(key, (key,)):
            stats[name] = compute_stats(values)
    relative = [dataset for dataset in group if dataset.relative_transform() is not None]
    if relative and len(relative) != len(group):
        raise ConfigError("transforms: either all datasets of a group use RelativeActions or none")
    if relative:
        windows = [
            part.relative_windows(transform)
            for dataset in relative
            if (transform := dataset.relative_transform()) is not None
            for part in dataset.parts
        ]
        stats[ACTION] = compute_stats(np.concatenate(windows))
    widened = {name: feature.widened(config.min_range) for name, feature in stats.items()}
    if config.dim is None:
        return widened
    # A scalar, like the timestamp, is no state.
    return {k: v.padded(config.dim) if v.dim > 1 else v for k, v in widened.items()}
