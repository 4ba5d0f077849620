"""Held-out data of one robot: samples as the network sees them, actions as the robot does."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_core.errors import DataError
from flux_core.norm_stats import NormStats
from flux_core.transforms import ActionInverse, Augmentation, Pipeline
from flux_data.run_files import check_files
from flux_data.samples import DimensionRange, ParquetDataset, RawSample, measured_ranges

PICTURE_HEIGHT = 180
JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class HeldOutEpisode:
    """An episode that the report shows.

    Attributes:
        index: (F,) the shown frames' indices in the group.
        episode: its index in the dataset.
        frames: (F,) the shown frames' numbers in the episode.
        first_step: offset of a chunk's first action from its frame.
        actions: (T, A) of the whole episode, in robot units.
        cameras: their names.
        pictures: for each shown frame, one JPEG per camera.
    """

    index: NDArray[np.int64]
    episode: int
    frames: NDArray[np.int64]
    first_step: int
    actions: NDArray[np.float32]
    cameras: tuple[str, ...]
    pictures: Sequence[Sequence[bytes]]


class HeldOutGroup:
    """One robot's held-out frames, normalised with the statistics of training.

    Images are never augmented: the robot does not augment its own.
    """

    def __init__(
        self,
        name: str,
        members: Sequence[ParquetDataset.Config],
        statistic_keys: Sequence[str],
        stats: NormStats,
    ) -> None:
        """`stats` are the training set's, for the group of this name."""
        self.name = name
        opened = [member.open() for member in members]
        check_files((s, m.cameras) for m, each in zip(members, opened, strict=True) for s in each)
        self._datasets = [
            plain(member).build(statistic_keys, sources)
            for member, sources in zip(members, opened, strict=True)
        ]
        for dataset in self._datasets:
            dataset.stats = stats
        self._stats = stats
        self._ends = np.cumsum([len(dataset) for dataset in self._datasets])
        if not len(self):
            raise DataError(f"validation.dataset.datasets.{name}: expected samples, found none")
        part = self._datasets[0].parts[0]
        self.action_dim, self.fps = part.action_dim, part.source.fps
        self.dimensions = part.action_names

    def ranges(self) -> list[DimensionRange]:
        """How far states and actions reach with the statistics of training; reads every value."""
        return measured_ranges(self.name, self._datasets, self._stats)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample as the network is trained on it; the same each time."""
        dataset, within = self._place(index)
        return dataset[within]

    def spread(self, count: int, seed: int) -> NDArray[np.int64]:
        """`count` indices spread over the group: one at random from each of `count` equal parts."""
        if count >= len(self):
            return np.arange(len(self))
        parts = np.arange(count) + np.random.default_rng(seed).random(count)
        return (parts * len(self) / count).astype(np.int64)

    def recorded(
        self, index: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """States (N, S), actions (N, H, A) in robot units, and which steps are real (N, H)."""
        samples = [self._raw(int(i)) for i in index]
        return (
            np.stack([sample.state for sample in samples]),
            np.stack([sample.actions for sample in samples]),
            np.stack([sample.action_masks for sample in samples]),
        )

    def in_robot_units(
        self, actions: NDArray[np.float32], states: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Undoes what the transforms do to actions.

        Args:
            actions: (N, H, at least A) normalised.
            states: (N, S) in robot units.

        Returns:
            (N, H, A).
        """
        return self._inverse(actions, states)

    @property
    def binary_mask(self) -> NDArray[np.bool_] | None:
        """(A,) True where an action is 0 or 1; None if none is."""
        return self._inverse.binary_mask

    @property
    def _inverse(self) -> ActionInverse:
        where = f"validation.dataset.datasets.{self.name}.transforms"
        pipeline = Pipeline(self._datasets[0].transforms, where=where)
        return pipeline.action_inverse(self._stats, self.action_dim)

    def episode(self, num_frames: int) -> HeldOutEpisode:
        """The group's first episode, with `num_frames` of its frames evenly spread."""
        dataset = next(each for each in self._datasets if len(each))
        part = next(each for each in dataset.parts if len(each))
        first, length = part.sample(0), 1
        while length < len(part) and part.sample(length).position == first.position:
            length += 1
        index = np.linspace(0, length - 1, min(num_frames, length)).round().astype(np.int64)
        samples = [part.sample(int(i)) for i in index]
        keys = part.frames.cameras
        return HeldOutEpisode(
            index=index,
            episode=first.episode_index,
            frames=np.array([sample.frame for sample in samples]),
            first_step=dataset.config.window_start_idx,
            actions=part.actions(first.position),
            cameras=tuple(key.removeprefix("observation.images.") for key in keys),
            pictures=[[_jpeg(part.frames.picture(s, key)) for key in keys] for s in samples],
        )

    def _raw(self, index: int) -> RawSample:
        dataset, within = self._place(index)
        return dataset.raw_sample(within)

    def _place(self, index: int) -> tuple[ParquetDataset, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._datasets[part], index - (int(self._ends[part - 1]) if part else 0)


def plain(dataset: ParquetDataset.Config) -> ParquetDataset.Config:
    """The same dataset without augmentation."""
    transforms = dataset.pipeline.without(Augmentation).transforms
    return replace(dataset, transforms=transforms, pictures_of_other_tasks=0.0)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    """A camera's picture, made small."""
    image = Image.fromarray(picture)
    image.thumbnail((4 * PICTURE_HEIGHT, PICTURE_HEIGHT), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()
