"""One stream of samples over one or many datasets, in a new order every epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.config import check_at_least
from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import NormStats
from flux_core.pictures import without_pictures

from ..lerobot.dataset import LeRobotDataset
from ..lerobot.metadata import NO_NUMBERS
from ..lerobot.state_action import STATE, width_of
from ..run_files import check_files, warn_of_rates
from .camera_summary import summarize_cameras
from .frame_cache import fingerprints
from .group_statistics import compute_group
from .read_ahead import make_samples
from .stats_cache import GroupStatistics, cached_cameras, cached_stats, code_of
from .windows import DatasetPart, ParquetDataset

logger = logging.getLogger("flux.data")


class DistributedRepeatingDataset:
    """Concatenates datasets and computes their statistics.

    A dict of lists groups the datasets by robot; each group has its own statistics. A sample is
    addressed by its draw, `epoch * len(dataset) + index`: its random parts depend only on (seed,
    epoch, index), whichever worker makes it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The datasets, their statistics and their order.

        Attributes:
            datasets: one dataset, several of one robot, or a robot's name -> its datasets.
            statistic_keys: the columns to compute statistics of; None for the columns of each
                dataset's state and actions, under the names that its normalisation expects.
            name_mappings: column -> the names of its statistics.
            statistic_name: the group's name for datasets that are not given by group.
            min_range: a dimension with a smaller range is normalised as if it had this one, in the
                unit of the statistics: the robot's, or the one after the unit steps.
            dim: the size to which statistics of states and actions are padded, for robots whose
                data is padded.
            sampling_weights: each group's share of an epoch's draws; default: its share of the
                samples.
            shuffle: whether the order is random.
            seed: seed of the order and of the random parts of samples.
        """

        datasets: (
            ParquetDataset.Config
            | tuple[ParquetDataset.Config, ...]
            | Mapping[str, tuple[ParquetDataset.Config, ...]]
        )
        statistic_keys: tuple[str, ...] | None = (STATE,)
        name_mappings: Mapping[str, tuple[str, ...]] = field(
            default_factory=lambda: {STATE: ("proprio", "action")}
        )
        # Checkpoints and bundles without a name of their own hold their statistics under this one.
        statistic_name: str = "private"
        min_range: float = 0.0
        dim: int | None = None
        sampling_weights: Mapping[str, float] | None = None
        shuffle: bool = True
        seed: int = 42

        def __post_init__(self) -> None:
            if not all(groups := self.groups().values()) or not groups:
                raise ConfigError("datasets: expected at least one dataset, got none")
            check_at_least(0, self, "min_range", "seed")
            check_at_least(1, self, "dim")
            self._check_names()
            weights = self.sampling_weights
            if weights is None:
                return
            if set(weights) != set(self.groups()):
                raise ConfigError(
                    f"sampling_weights: expected a weight for each of {', '.join(self.groups())}, "
                    f"got {', '.join(weights)}"
                )
            are_positive = all(weight >= 0 for weight in weights.values())  # NaN is not
            if not are_positive or not 0 < sum(weights.values()) < math.inf:
                raise ConfigError(
                    f"sampling_weights: expected positive numbers, got {dict(weights)}"
                )

        def _check_names(self) -> None:
            columns: dict[str, str] = {}
            for key in self.statistic_keys or ():
                # A column that is not mapped may replace one that is: it measures itself.
                for name in self.name_mappings.get(key, ()):
                    if columns.setdefault(name, key) != key:
                        raise ConfigError(
                            f"name_mappings: expected one column called {name!r}, got "
                            f"{columns[name]!r} and {key!r}. Use statistic_keys=None for a state "
                            "or actions in several columns"
                        )

        def measured(self, dataset: ParquetDataset) -> dict[str, tuple[str, ...]]:
            """Returns the name of each statistic -> the columns of a dataset that it describes."""
            if self.statistic_keys is not None:
                return {
                    name: (key,)
                    for key in self.statistic_keys
                    for name in self.name_mappings.get(key, (key,))
                }
            state_name, action_name = dataset.pipeline.statistic_names
            return {
                state_name: dataset.config.state_columns,
                action_name: dataset.config.action_columns,
            }

        def groups(self) -> dict[str, tuple[ParquetDataset.Config, ...]]:
            """Returns the datasets by robot."""
            datasets = self.datasets
            if isinstance(datasets, ParquetDataset.Config):
                return {self.statistic_name: (datasets,)}
            if isinstance(datasets, Mapping):
                return dict(datasets)
            return {self.statistic_name: tuple(datasets)}

        def members(self) -> Iterator[tuple[str, str, ParquetDataset.Config]]:
            """Yields each dataset with its place in the section ('datasets.ur3.0') and its group.

            They come in the order of `DistributedRepeatingDataset.datasets`.
            """
            if isinstance(self.datasets, ParquetDataset.Config):
                yield "datasets", self.statistic_name, self.datasets
                return
            is_grouped = isinstance(self.datasets, Mapping)
            for group, datasets in self.groups().items():
                for index, dataset in enumerate(datasets):
                    place = f"datasets.{group}.{index}" if is_grouped else f"datasets.{index}"
                    yield place, group, dataset

        def build(self) -> DistributedRepeatingDataset:
            return DistributedRepeatingDataset(self)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.datasets: list[ParquetDataset] = []
        self.stats: dict[str, NormStats] = {}
        self._summaries: dict[str, Mapping[str, object]] = {}
        self._groups: dict[str, tuple[int, int]] = {}
        self._group_of: list[int] = []
        opened = _opened(config)
        for name, members in config.groups().items():
            keys = config.statistic_keys or ()
            group = [m.build(keys, s) for m, s in zip(members, opened[name], strict=True)]
            check_alike(group, keys)
            statistics = group_stats(group, config)
            self.stats[name] = statistics.stats
            self._summaries[name] = statistics.summary
            for dataset in group:
                dataset.stats = self.stats[name]
            first = sum(len(dataset) for dataset in self.datasets)
            self._group_of += [len(self._groups)] * len(group)
            self._groups[name] = (first, first + sum(len(dataset) for dataset in group))
            self.datasets += group
        self._ends = np.cumsum([len(dataset) for dataset in self.datasets])
        self._check_weighted_groups()

    def data_summary(self, *, pictures: bool = True) -> dict[str, dict[str, object]]:
        """Returns what a robot can be compared with, by group, as plain data.

        `fps`, `episodes`, `frames`, the ranges of `state` and `action` in robot units, the same of
        the first frames in `start`, the closed and open values of `grippers`, and `cameras` (see
        `summarize_cameras`). The cameras' frames are decoded by the first call; a group whose
        frames cannot be decoded gets a warning and no `cameras`.

        Args:
            pictures: whether it contains small pictures of the cameras.
        """
        names = self.group_of_datasets
        for name, summary in self._summaries.items():
            if "cameras" not in summary:
                members = [
                    d for d, group in zip(self.datasets, names, strict=True) if group == name
                ]
                self._summaries[name] = {**summary, "cameras": _cameras(members)}
        return {
            name: dict(summary) if pictures else _without_pictures(summary)
            for name, summary in self._summaries.items()
        }

    def _check_weighted_groups(self) -> None:
        """Refuses a share of the draws for a group without samples."""
        for name, weight in (self.config.sampling_weights or {}).items():
            first, last = self._groups[name]
            if weight and first == last:
                raise ConfigError(
                    f"sampling_weights.{name}: expected 0, as the group has no samples, got "
                    f"{weight}. Leave it out"
                )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, draw: int) -> dict[str, Any]:
        if draw < 0 or not len(self):
            raise IndexError(
                f"draw {draw}: expected at least 0, with {len(self)} samples per epoch"
            )
        epoch, index = divmod(draw, len(self))
        part = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        rng = np.random.default_rng((self.config.seed, epoch, index))
        sample = self.datasets[part].sample(index - start, rng)
        return {**sample, "group": self._group_of[part]}

    @property
    def group_of_datasets(self) -> tuple[str, ...]:
        """The group of each of `datasets`."""
        return tuple(self.group_names[index] for index in self._group_of)

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups' names; a sample's `group` is an index into them."""
        return tuple(self._groups)

    def __getitems__(self, draws: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the samples of a batch; torch's DataLoader calls this."""
        return make_samples(self.__getitem__, draws)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Returns the draws of an epoch, which depend only on (seed, epoch).

        Every sample occurs once or, with `sampling_weights`, according to its group's weight.
        """
        rng = np.random.default_rng((self.config.seed, epoch))
        if self.config.sampling_weights is not None:
            order = self._weighted(rng)
        else:
            order = np.arange(len(self))
        if self.config.shuffle:
            order = rng.permutation(order)
        return order + epoch * len(self)

    def _weighted(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns as many indices as there are samples; each group is drawn round by round."""
        weights = self.config.sampling_weights
        assert weights is not None
        shares = np.asarray([weights[name] for name in self._groups])
        ends = np.round(np.cumsum(shares / shares.sum()) * len(self)).astype(int)
        counts = np.diff(ends, prepend=0)
        drawn: list[NDArray[np.int64]] = []
        for (first, last), count in zip(self._groups.values(), counts, strict=True):
            rounds = -(-int(count) // max(last - first, 1))
            laps = [first + rng.permutation(last - first) for _ in range(rounds)]
            drawn.append(np.concatenate([*laps, np.zeros(0, np.int64)])[:count].astype(np.int64))
        return np.concatenate(drawn)


def _opened(
    config: DistributedRepeatingDataset.Config,
) -> dict[str, list[list[LeRobotDataset]]]:
    """Opens the directories of each group's datasets, and checks that all their files exist."""
    opened: dict[str, list[list[LeRobotDataset]]] = {}
    for name, members in config.groups().items():
        if not members:
            raise ConfigError(f"datasets.{name}: expected at least one dataset, got none")
        opened[name] = [member.open() for member in members]
    check_files(
        (source, member.cameras)
        for name, members in config.groups().items()
        for member, sources in zip(members, opened[name], strict=True)
        for source in sources
    )
    warn_of_rates(s for members in opened.values() for sources in members for s in sources)
    return opened


class EpochBatches:
    """Batches of draws for one rank; together, all ranks see every draw of an epoch once.

    All ranks leave out the last incomplete batch of an epoch. Set `epoch` and `first_batch` to
    resume a run; the number of workers that read ahead does not matter.
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
        self.epoch = self.first_batch = 0
        if batch_size < 1:
            raise ConfigError(f"per_device_batch_size: expected at least 1, got {batch_size}")
        if self.batches_per_epoch == 0:
            raise DataError(
                f"train_dataloader: expected at least {batch_size} samples for each of "
                f"{world_size} ranks, got {len(dataset)}. Lower per_device_batch_size or add "
                "episodes"
            )

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches per epoch and rank."""
        return len(self.dataset) // self.global_batch_size

    def __len__(self) -> int:
        """Number of batches left in this epoch."""
        return self.batches_per_epoch - self.first_batch

    def __iter__(self) -> Iterator[list[int]]:
        order = self.dataset.order(self.epoch)
        step = self.global_batch_size
        for batch in range(self.first_batch, self.batches_per_epoch):
            first = batch * step
            yield order[first : first + step][self.rank :: self.world_size].tolist()

    @property
    def global_batch_size(self) -> int:
        """Number of samples in one batch on all ranks together."""
        return self.batch_size * self.world_size

    def state_dict(self, consumed: int) -> dict[str, int]:
        """Returns the place of the next batch, after `consumed` batches of this epoch."""
        epochs, batch = divmod(consumed, self.batches_per_epoch)
        samples = batch * self.global_batch_size
        return {
            "epoch": self.epoch + epochs,
            "samples": samples,
            "global_batch_size": self.global_batch_size,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restores a place; ranks and batch size may change if their product stays the same.

        With another product the epoch continues at the first whole batch after that place: less
        than one batch of samples is skipped, and the batches are composed differently.
        """
        self.epoch = state["epoch"]
        self.first_batch = -(-state["samples"] // self.global_batch_size)


def check_alike(group: Sequence[ParquetDataset], statistic_keys: Sequence[str]) -> None:
    """Refuses datasets that cannot share statistics, and statistics of anything but numbers.

    Raises:
        ConfigError: two datasets differ in rate, so that their steps differ in length, or in
            dimensions; or one of `statistic_keys` is a camera or a text.
    """
    first, *others = [part for dataset in group for part in dataset.parts]
    expected = _shared_facts(first, statistic_keys)
    for part in others:
        for name, value in _shared_facts(part, statistic_keys).items():
            # 29.97 counts as 30.
            if not math.isclose(value, expected[name], rel_tol=0.01):
                raise ConfigError(
                    f"datasets: {name}: expected one value per group, got "
                    f"{expected[name]:g} ({first.source.root}) and {value:g} ({part.source.root}). "
                    "Use a group for each: datasets={name: [...], other_name: [...]}"
                )


def _shared_facts(part: DatasetPart, statistic_keys: Sequence[str]) -> dict[str, float]:
    """Returns the facts that all datasets of a group must share."""
    features = part.source.info["features"]
    for key in statistic_keys:
        if features[key]["dtype"] in NO_NUMBERS:
            raise ConfigError(
                f"statistic_keys: {key!r}: expected a feature of numbers, got "
                f"{features[key]['dtype']} ({part.source.root}). Leave it out"
            )
    dims = {f"dimensions of {key}": float(width_of(features, [key])) for key in statistic_keys}
    if STATE not in statistic_keys:
        dims["dimensions of the state"] = float(part.state_dim)
    return {
        "fps": part.source.fps,
        **dims,
        "dimensions of the actions": float(part.action_dim),
    }


def group_stats(
    group: list[ParquetDataset], config: DistributedRepeatingDataset.Config
) -> GroupStatistics:
    """Returns a group's statistics, and the summary of its data, without cameras.

    They are computed once and cached on disk.
    """
    sources = [part.source for dataset in group for part in dataset.parts]
    settings: dict[str, object] = {
        "statistic_keys": config.statistic_keys,
        "name_mappings": config.name_mappings,
        "min_range": config.min_range,
        "dim": config.dim,
        # Relative actions depend on the windows.
        "datasets": [dataset.config for dataset in group if dataset.pipeline.unit_steps],
    }
    if config.statistic_keys is None:
        settings["measured"] = [config.measured(dataset) for dataset in group]
    if code := code_of([step for dataset in group for step in dataset.pipeline.unit_steps]):
        settings["code"] = code
    return cached_stats(sources, settings, lambda: exact_stats(group, config))


def _cameras(group: list[ParquetDataset]) -> Mapping[str, object]:
    """Returns the summary of a group's cameras, computed once and cached on disk."""
    if not any(len(dataset) for dataset in group):
        return {}
    parts = [part for dataset in group for part in dataset.parts]
    try:
        settings = [
            [part.frames.cameras, fingerprints(part.source, part.frames.cameras)] for part in parts
        ]
        sources = [part.source for part in parts]
        return cached_cameras(sources, settings, lambda: summarize_cameras(group))
    except DataError as error:
        logger.warning("the checkpoint gets no summary of the cameras: %s", error)
        return {}


def _without_pictures(summary: Mapping[str, Any]) -> dict[str, object]:
    return {**summary, "cameras": without_pictures(summary["cameras"])}


def exact_stats(
    group: list[ParquetDataset], config: DistributedRepeatingDataset.Config
) -> GroupStatistics:
    """Computes the statistics of a group, and the summary of its data, from every frame."""
    found, summary = compute_group(group, [config.measured(dataset) for dataset in group])
    stats = {name: feature.widened(config.min_range) for name, feature in found.items()}
    if config.dim is not None:
        # A scalar, like the timestamp, is not a state.
        dim = config.dim
        stats = {k: v.padded(dim) if v.dim > 1 else v for k, v in stats.items()}
    return GroupStatistics(stats=stats, summary=summary)
