"""Windows of actions over LeRobot episodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from flux_core.config import check_at_least
from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms import (
    DatasetInputs,
    Normalization,
    Pipeline,
    Sample,
    Transform,
    UnitStep,
    apply,
)

from ..lerobot.dataset import Columns, LeRobotDataset, open_lerobot
from ..lerobot.metadata import NO_NUMBERS
from ..lerobot.state_action import (
    ACTION,
    STATE,
    bases_of,
    check_apart,
    check_columns,
    check_known,
    dimension_names,
    joined,
    width_of,
)
from ..modality import modality_of, resolved
from .frame_source import FrameSource
from .raw_sample import RawSample
from .read_ahead import make_samples

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""LeRobot's own features: one number per frame, which stays a number in samples."""

MADE = ("states", "actions", "action_masks", "task_description", "episode_index", "stats", "info")
"""The keys of a sample that are not columns of the dataset."""

SKIPPED_TASKS = ("empty", "static")
"""Tasks that mark frames without anything to learn (in FluxVLA's datasets)."""

WINDOWS_AT_ONCE = 1024
"""How many windows are in memory while statistics are computed."""

TRIES = 1000
"""Random samples that are looked at to find one of another task."""


class ParquetDataset:
    """Samples of one or several LeRobot directories of the same robot.

    The sample of frame t holds the actions of frames `t + window_start_idx + k`, k = 0 .. H-1. A
    window stops at the end of its episode and before a frame whose task is `empty` or `static`:
    from there on it repeats the last action, with mask False. A frame without any action is not a
    sample.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Where the samples come from, and how long their windows are.

        Attributes:
            data_root_path: one LeRobot directory or several.
            transforms: the transforms of a sample, ProcessParquetInputs first.
            action_window_size: H, the number of steps in a window.
            action_key: the column of the actions, or several that are concatenated in this order;
                `action[0:7]` is part of a column, and `action.left_arm` a name of
                `meta/modality.json`.
                Robots without recorded actions use the next states: the state's columns with
                `window_start_idx=1`.
            state_key: the same for the state, which `parquet_keys` then lists as `states`.
                Default: the column that `name_mappings` renames to `states`.
            task_key: the column with the number of each frame's task.
            window_start_idx: how many frames after the state the window begins.
            supervise_terminal_padding: whether the repeated actions at an episode's end count in
                the loss, as in LeRobot.
            frame_cache: the folder of `flux-data pack --out`; default: beside the dataset.
            pictures_of_other_tasks: share of the samples that show a random frame of another task.
                Where the scene gives the task away, a network need not read its prompt; with these
                samples, it does what the words say, whatever it sees.
        """

        data_root_path: str | tuple[str, ...]
        transforms: tuple[Transform, ...]
        action_window_size: int = 9
        action_key: str | tuple[str, ...] = STATE
        state_key: str | tuple[str, ...] | None = None
        task_key: str = "task_index"
        window_start_idx: int = 1
        supervise_terminal_padding: bool = False
        frame_cache: str | None = None
        pictures_of_other_tasks: float = 0.0

        def __post_init__(self) -> None:
            check_at_least(1, self, "action_window_size")
            check_at_least(0, self, "window_start_idx")
            if not 0.0 <= self.pictures_of_other_tasks < 1.0:
                raise ConfigError(
                    "pictures_of_other_tasks: expected at least 0 and less than 1, got "
                    f"{self.pictures_of_other_tasks}"
                )
            if not self.roots:
                raise ConfigError("data_root_path: expected at least one directory, got none")
            self.pipeline.check()
            self._check_columns()

        @property
        def pipeline(self) -> Pipeline:
            """The transforms of a sample."""
            return Pipeline(self.transforms)

        def _check_columns(self) -> None:
            for name in ("action_key", "state_key"):
                columns = _as_tuple(getattr(self, name))
                if columns is not None and (not columns or len(set(columns)) < len(columns)):
                    raise ConfigError(
                        f"{name}: expected one column or several different ones, got {columns}"
                    )
            state = _as_tuple(self.state_key)
            other = self._mapped_states()
            if None not in (state, other) and state != (other,):
                raise ConfigError(
                    f"state_key: expected {other!r}, which {DatasetInputs.example} calls 'states', "
                    f"got {', '.join(state or ())}. Put 'states' into its parquet_keys instead"
                )

        def _mapped_states(self) -> str | None:
            """Returns the column that is renamed to `states`, or None."""
            inputs = self.pipeline.maybe(DatasetInputs)
            return None if inputs is None else inputs.column_of("states")

        @property
        def action_columns(self) -> tuple[str, ...]:
            """The columns of the actions, in order."""
            return _as_tuple(self.action_key) or ()

        @property
        def state_columns(self) -> tuple[str, ...]:
            """The columns of the state, in order."""
            return _as_tuple(self.state_key) or (self._mapped_states() or STATE,)

        @property
        def roots(self) -> tuple[str, ...]:
            """The directories."""
            path = self.data_root_path
            return (path,) if isinstance(path, str) else path

        @property
        def cameras(self) -> tuple[str, ...]:
            """The columns of the cameras."""
            inputs = self.pipeline.maybe(DatasetInputs)
            return () if inputs is None else tuple(inputs.video_keys)

        def open(self) -> list[LeRobotDataset]:
            """Opens the directories, reading only metadata."""
            return [open_lerobot(root) for root in self.roots]

        def build(
            self,
            statistic_keys: Sequence[str] = (),
            sources: Sequence[LeRobotDataset] | None = None,
        ) -> ParquetDataset:
            return ParquetDataset(self, statistic_keys, sources)

    def __init__(
        self,
        config: Config,
        statistic_keys: Sequence[str] = (),
        sources: Sequence[LeRobotDataset] | None = None,
    ) -> None:
        """Finds the samples.

        Args:
            config: the settings.
            statistic_keys: the columns of which statistics will be computed.
            sources: the opened directories; default: opens them.
        """
        sources = config.open() if sources is None else sources
        for source in sources:
            source.check_count()
        changes = [_changes(config, source) for source in sources]
        config = _in_columns(config, sources)
        self.config, self.pipeline = config, config.pipeline
        self.parts = [
            DatasetPart(source, config, statistic_keys, columns)
            for source, columns in zip(sources, changes, strict=True)
        ]
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.stats: Mapping[str, FeatureStats] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms of a sample, in order."""
        return self.config.transforms

    def raw_sample(self, index: int) -> RawSample:
        """Returns the sample before any transform, without the cameras' frames.

        Raises:
            IndexError: there is no such sample; negative numbers are not allowed.
        """
        part, within = self._locate(index)
        return part.sample(within)

    def pictures(self, index: int) -> list[NDArray[np.uint8]]:
        """Returns a sample's frame of every camera as recorded, (height, width, 3) each.

        Raises:
            DataError: a frame is missing or cannot be decoded.
        """
        part, within = self._locate(index)
        raw = part.sample(within)
        return [part.frames.picture(raw, camera) for camera in part.frames.cameras]

    def first_samples(self) -> NDArray[np.int64]:
        """Returns the number of the first sample of each episode that has samples."""
        begins = [0, *self._ends[:-1].tolist()]
        return np.concatenate(
            [begin + part.first_samples() for begin, part in zip(begins, self.parts, strict=True)]
        )

    def _locate(self, index: int) -> tuple[DatasetPart, int]:
        """Returns the part that holds a sample, and the sample's number there."""
        self._check_index(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part], index - (int(self._ends[part - 1]) if part else 0)

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index}: expected one of {len(self)}, counted from 0")

    def __getitem__(self, index: int) -> dict[str, object]:
        self._check_index(index)
        return self.sample(index, np.random.default_rng(index))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, object]]:
        """Returns the samples of a batch; torch's DataLoader calls this."""
        return make_samples(self.__getitem__, indices)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, object]:
        """Returns the sample after all transforms, which draw their random numbers from `rng`."""
        return self.pipeline(self.untransformed(index, rng))

    def untransformed(self, index: int, rng: np.random.Generator) -> Sample:
        """Returns the sample as the first transform gets it, with the cameras' frames."""
        part, within = self._locate(index)
        raw = part.sample(within)
        share = self.config.pictures_of_other_tasks
        if share and rng.random() < share:
            images = self._images_of_another_task(raw.task, rng)
        else:
            images = part.frames.read(raw)
        sample = {**raw.named(), "images": images}
        return {**sample, "info": part.source.info, "stats": self.stats, "rng": rng}

    def _images_of_another_task(
        self, task: str, rng: np.random.Generator
    ) -> list[NDArray[np.uint8]]:
        """Returns the cameras' frames of a random sample whose task is not `task`."""
        for _ in range(TRIES):
            part, within = self._locate(int(rng.integers(len(self))))
            raw = part.sample(within)
            if raw.task != task:
                return part.frames.read(raw)
        raise DataError(
            f"pictures_of_other_tasks: expected samples of several tasks, got {task!r} in {TRIES} "
            "random samples"
        )

    def column(self, key: str) -> NDArray[np.generic]:
        """Returns one feature over all frames, including frames that are not samples."""
        return np.concatenate([part.source.columns([key])[key] for part in self.parts])

    def in_own_units(self, name: str, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Converts (frames, dim) states or absolute actions to the units of normalisation.

        Args:
            name: the name of their statistics; other values are returned unchanged.
        """
        state_name, action_name = self.pipeline.statistic_names
        numbers = cast(NDArray[np.floating], values)  # no other column has statistics
        if name == state_name:
            return self.pipeline.states(numbers)
        return self.pipeline.actions(numbers) if name == action_name else values


class DatasetPart:
    """One directory: its samples and their values."""

    def __init__(
        self,
        source: LeRobotDataset,
        config: ParquetDataset.Config,
        statistic_keys: Sequence[str],
        ends_at_zero: Collection[str] = (),
    ) -> None:
        """Finds the samples of a directory.

        Args:
            source: the directory.
            config: the settings, in columns.
            statistic_keys: the columns of which statistics will be computed.
            ends_at_zero: the columns of actions that are changes: 0 once an episode is over.
        """
        self.source, self.config = source, config
        inputs = config.pipeline.maybe(DatasetInputs)
        if inputs is None or inputs is not config.transforms[0]:
            found = "none" if inputs is None else type(config.transforms[0]).__name__
            raise ConfigError(f"transforms: expected {DatasetInputs.example} first, found {found}")
        self.frames = FrameSource(
            source,
            inputs.video_keys,
            config.pipeline.resize_at_decode,
            cache_folder=Path(config.frame_cache) if config.frame_cache is not None else None,
        )
        features = source.info["features"]
        check_columns(features, config.action_columns, f"{source.root}: action_key")
        check_apart(config.action_columns, f"{source.root}: action_key")
        check_columns(features, config.state_columns, f"{source.root}: state_key")
        check_known(features, [config.task_key], f"{source.root}: task_key")
        columns = bases_of((*config.action_columns, *config.state_columns))
        keys = {"timestamp", "task_index", config.task_key, *columns}
        asked = [key for key in inputs.parquet_keys if key not in MADE]
        check_known(features, asked, f"{source.root}: {DatasetInputs.example}.parquet_keys")
        keys |= {key for key in inputs.parquet_keys if key in features}
        self.keys = sorted(keys)
        self._scalars = {k for k in self.keys if is_scalar_vector(features.get(k), k)}
        source.check_features([*self.keys, *bases_of(statistic_keys)])
        widths = [width_of(features, [column]) for column in config.action_columns]
        self._ends_at_zero = np.repeat(
            [column in ends_at_zero for column in config.action_columns], widths
        )
        self._skipped = {i for i, task in source.tasks.items() if task in SKIPPED_TASKS}
        self._kept_frames = [self._frames_to_skip_around(i) for i in range(source.num_episodes)]
        counts = [self._count(position) for position in range(source.num_episodes)]
        self._starts = np.concatenate(([0], np.cumsum(counts)))

    def _frames_to_skip_around(self, position: int) -> NDArray[np.int64] | None:
        """Returns the frames that are samples; None if that is every frame with an action."""
        if not self._skipped:
            return None
        is_good = self._good_frames(position)
        shift = self.config.window_start_idx
        frames = np.arange(max(len(is_good) - shift, 0))
        return frames[is_good[frames] & is_good[frames + shift]]

    def _good_frames(self, position: int) -> NDArray[np.bool_]:
        key = self.config.task_key
        tasks = self.source.episode(position, [key])[key]
        return ~np.isin(np.ravel(tasks), list(self._skipped))

    def _count(self, position: int) -> int:
        frames = self._kept_frames[position]
        if frames is not None:
            return len(frames)
        return max(int(self.source.lengths[position]) - self.config.window_start_idx, 0)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sample(self, index: int) -> RawSample:
        """Reads one sample, except for the cameras' frames."""
        position = int(np.searchsorted(self._starts, index, side="right")) - 1
        frames = self._kept_frames[position]
        within = index - int(self._starts[position])
        frame = within if frames is None else int(frames[within])
        columns = self.episode(position)
        actions, mask = self.window(columns, position, frame)
        return RawSample(
            position=position,
            episode_index=int(self.source.episode_indices[position]),
            frame=frame,
            times_s=columns["timestamp"].ravel().astype(np.float64, copy=False),
            columns={key: column[frame] for key, column in columns.items()},
            state=joined(columns, self.config.state_columns, frame),
            actions=actions,
            action_masks=mask,
            task=self._task(columns, position, frame),
        )

    def first_samples(self) -> NDArray[np.int64]:
        """Returns the number of the first sample of each episode that has samples."""
        return np.unique(self._starts[:-1][np.diff(self._starts) > 0]).astype(np.int64)

    @property
    def state_dim(self) -> int:
        """Dimensions of the state, from the metadata."""
        return width_of(self.source.info["features"], self.config.state_columns)

    @property
    def action_dim(self) -> int:
        """Dimensions of the actions, from the metadata."""
        return width_of(self.source.info["features"], self.config.action_columns)

    @property
    def action_names(self) -> tuple[str, ...]:
        """The name of each dimension of the actions."""
        return self._names[ACTION]

    @property
    def state_names(self) -> tuple[str, ...]:
        """The name of each dimension of the state."""
        return self._names[STATE]

    @property
    def _names(self) -> dict[str, tuple[str, ...]]:
        columns = {STATE: self.config.state_columns, ACTION: self.config.action_columns}
        return dimension_names(self.source.info["features"], columns)

    def actions(self, position: int) -> NDArray[np.float32]:
        """Returns all actions of an episode, (frames, A)."""
        return joined(self.episode(position), self.config.action_columns).astype(np.float32)

    def episode(self, position: int) -> Columns:
        """Returns the columns of an episode; a state or action of one dimension is (frames, 1)."""
        return self._as_vectors(self.source.episode(position, self.keys))

    def _as_vectors(self, columns: Columns) -> Columns:
        return {k: v[:, None] if k in self._scalars else v for k, v in columns.items()}

    def _task(self, columns: Columns, position: int, frame: int) -> str:
        task_index = int(np.ravel(columns[self.config.task_key][frame])[0])
        if task_index not in self.source.tasks:
            raise DataError(
                f"{self.source.data_file(position)}: frame {frame}: {self.config.task_key}: "
                f"expected a task of the metadata, got {task_index}"
            )
        return self.source.tasks[task_index]

    def window(
        self, columns: Columns, position: int, frame: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Returns the actions (H, A) of a frame, and which of them count in the loss."""
        first = frame + self.config.window_start_idx
        rows = np.arange(first, first + self.config.action_window_size)
        end = int(self.source.lengths[position])
        if self._skipped:
            bad = np.flatnonzero(~self._good_frames(position)[first:])
            end = first + int(bad[0]) if len(bad) else end
        mask = rows < end
        actions = self._actions_of(columns, np.minimum(rows, end - 1), ~mask)
        if self.config.supervise_terminal_padding:
            mask = np.ones_like(mask)
        return actions, mask

    def _actions_of(
        self, columns: Columns, rows: NDArray[np.int64], is_over: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Returns rows of the actions; once the episode `is_over`, changes are 0."""
        actions = joined(columns, self.config.action_columns, rows).astype(np.float32)
        if self._ends_at_zero.any():
            actions[is_over[..., None] & self._ends_at_zero] = 0.0
        return actions

    def converted_windows(
        self, steps: Sequence[UnitStep], columns: Columns, position: int
    ) -> Iterator[NDArray[np.float32]]:
        """Yields an episode's supervised actions after the unit `steps`, (windows x steps, A)."""
        kept = self._kept_frames[position]
        kept = np.arange(self._count(position)) if kept is None else kept
        for first in range(0, len(kept), WINDOWS_AT_ONCE):
            frames = kept[first : first + WINDOWS_AT_ONCE]
            actions, masks = self.windows(columns, position, frames)
            states = joined(columns, self.config.state_columns, frames)
            sample = apply(steps, {"states": states, "actions": actions})
            yield sample["actions"][masks]

    def without_windows(self) -> DataError:
        """Returns the error for a dataset without any window of relative actions."""
        return DataError(
            f"{self.source.root}: expected frames with actions for the statistics of relative "
            f"actions, got none (window_start_idx {self.config.window_start_idx}, tasks "
            f"{' and '.join(SKIPPED_TASKS)} left out). Leave the dataset out"
        )

    def windows(
        self, columns: Columns, position: int, frames: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Returns the windows of many frames, (frames, H, A) and (frames, H): those of `window`."""
        first = frames + self.config.window_start_idx
        rows = first[:, None] + np.arange(self.config.action_window_size)
        end = np.full(len(frames), int(self.source.lengths[position]))
        if self._skipped:
            bad = np.append(np.flatnonzero(~self._good_frames(position)), end[:1])
            end = bad[np.searchsorted(bad, first)]
        masks = rows < end[:, None]
        actions = self._actions_of(columns, np.minimum(rows, end[:, None] - 1), ~masks)
        if self.config.supervise_terminal_padding:
            masks = np.ones_like(masks)
        return actions, masks


def _in_columns(
    config: ParquetDataset.Config, sources: Sequence[LeRobotDataset]
) -> ParquetDataset.Config:
    """Returns the config with the columns that names of `modality.json` stand for.

    Raises:
        DataError: there is no such name, or it stands for another column in another directory.
    """
    found = [_in_columns_of(config, source) for source in sources]
    for source, own in zip(sources, found, strict=True):
        if own != found[0]:
            raise DataError(
                f"{source.root}: meta/modality.json: expected the columns of {sources[0].root}, "
                "got others. Make it a dataset of its own"
            )
    return found[0]


def _in_columns_of(config: ParquetDataset.Config, source: LeRobotDataset) -> ParquetDataset.Config:
    def column(name: str) -> str:
        return resolved(name, source.root, source.info["features"])

    def columns(names: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return column(names) if isinstance(names, str) else names and tuple(map(column, names))

    names = _as_tuple(config.state_key) or ()
    if (modality := modality_of(names, source.root, source.info["features"])) is not None:
        for step in config.pipeline.steps(Normalization):
            modality.check_rotations(names, step.state_keys)
    transforms = tuple(
        replace(step, video_keys=tuple(map(column, step.video_keys)))
        if isinstance(step, DatasetInputs) and is_dataclass(step)
        else step
        for step in config.transforms
    )
    return replace(
        config,
        transforms=transforms,
        task_key=column(config.task_key),
        action_key=columns(config.action_key),
        state_key=columns(config.state_key),
    )


def _changes(config: ParquetDataset.Config, source: LeRobotDataset) -> set[str]:
    """Returns the columns of actions that `modality.json` says are changes."""
    names = config.action_columns
    modality = modality_of(names, source.root, source.info["features"])
    if modality is None:
        return set()
    return {modality.column_of(name) for name in names if name in modality.relative}


def _as_tuple(columns: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    return (columns,) if isinstance(columns, str) else columns


def is_scalar_vector(feature: Mapping[str, Any] | None, key: str) -> bool:
    """Whether a feature is a vector of one number, which LeRobot stores as one number per row."""
    if feature is None or key in BOOKKEEPING or feature["dtype"] in NO_NUMBERS:
        return False
    return list(feature["shape"]) == [1]
