"""Windows of actions over LeRobot episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms import DatasetInputs, Pipeline, Transform, UnitStep, apply

from ..lerobot.dataset import NO_NUMBERS, Columns, LeRobotDataset, VideoSegment, open_lerobot
from .frame_cache import CachedFrame, find_cache
from .process_inputs import StoredImage
from .read_ahead import make_samples

BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""LeRobot's own features: one number a frame, in its samples too."""

SKIPPED_TASKS = ("empty", "static")
"""Tasks that label frames in which there is nothing to learn (FluxVLA's datasets)."""


class ParquetDataset:
    """Samples of one or several LeRobot directories of the same robot.

    The sample of frame t holds actions `action_key[t + window_start_idx + k]` for k = 0 .. H-1. A
    window never leaves its episode, nor enters a frame whose task is `empty` or `static`: from
    there on it repeats the last action with mask 0. A frame without any action of its own is no
    sample.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """`action_window_size` is H; real robots without recorded actions use the next states
        (`action_key='observation.state'`, `window_start_idx=1`). With `supervise_terminal_padding`
        the repeated actions at an episode's end count for the loss, as in LeRobot.
        `frame_cache` is where `flux-data pack --out` wrote; default: beside the dataset."""

        data_root_path: str | tuple[str, ...]
        transforms: tuple[Transform, ...]
        action_window_size: int = 9
        action_key: str = "observation.state"
        window_start_idx: int = 1
        supervise_terminal_padding: bool = False
        frame_cache: str | None = None

        def __post_init__(self) -> None:
            if self.action_window_size < 1 or self.window_start_idx < 0:
                raise ConfigError(
                    "action_window_size must be at least 1 and window_start_idx at least 0, got "
                    f"{self.action_window_size} and {self.window_start_idx}"
                )
            if not self.roots:
                raise ConfigError("data_root_path: expected at least one directory, got none")
            self.pipeline.check()

        @cached_property
        def pipeline(self) -> Pipeline:
            """What is done to a raw sample."""
            return Pipeline(self.transforms)

        @property
        def roots(self) -> tuple[str, ...]:
            """The directories."""
            path = self.data_root_path
            return (path,) if isinstance(path, str) else path

        def build(self, statistic_keys: Sequence[str] = ()) -> ParquetDataset:
            return ParquetDataset(self, statistic_keys)

    def __init__(self, config: Config, statistic_keys: Sequence[str] = ()) -> None:
        self.config = config
        self.parts = [DatasetPart(open_lerobot(r), config, statistic_keys) for r in config.roots]
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.stats: Mapping[str, FeatureStats] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def pipeline(self) -> Pipeline:
        """What is done to a raw sample."""
        return self.config.pipeline

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """What is done to a raw sample, in order."""
        return self.config.transforms

    def raw_sample(self, index: int) -> dict[str, object]:
        """The sample before any transform.

        Raises:
            IndexError: there is none of that number; they are not counted from the end.
        """
        self._check_index(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return {**self.parts[part].sample(index - start), "stats": self.stats}

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index}: expected one of {len(self)}, counted from 0")

    def __getitem__(self, index: int) -> dict[str, object]:
        self._check_index(index)
        return self.sample(index, np.random.default_rng(index))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, object]]:
        """The samples of a batch; torch's DataLoader asks for them so."""
        return make_samples(self.__getitem__, indices)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, object]:
        """The sample after all transforms; what is random in them is drawn from `rng`."""
        return self.pipeline({**self.raw_sample(index), "rng": rng})

    def column(self, key: str) -> NDArray[Any]:
        """One feature over all frames, those that are no samples included."""
        return np.concatenate([part.source.columns([key])[key] for part in self.parts])

    def in_own_units(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A column (frames, dim), absolute actions among them, as it is when it is normalised.

        Args:
            name: what its statistics are called.
        """
        state_name, action_name = self.pipeline.statistic_names
        if name == state_name:
            return self.pipeline.states(values)
        return self.pipeline.actions(values) if name == action_name else values


class DatasetPart:
    """One directory: which of its frames are samples, and what they hold."""

    def __init__(
        self, source: LeRobotDataset, config: ParquetDataset.Config, statistic_keys: Sequence[str]
    ) -> None:
        self.source, self.config = source, config
        inputs = config.pipeline.maybe(DatasetInputs)
        if inputs is None or inputs is not config.transforms[0]:
            found = "none" if inputs is None else type(config.transforms[0]).__name__
            raise ConfigError(f"transforms: expected {DatasetInputs.example} first, found {found}")
        self.video_keys = check_cameras(source, inputs)
        keys = {"timestamp", "task_index", config.action_key, "observation.state"}
        keys |= {k for k in inputs.parquet_keys if k in source.info["features"]}
        keys |= {k for k in self.video_keys if k in source.image_keys}
        self.keys = sorted(keys)
        self._scalars = {
            k for k in self.keys if is_scalar_vector(source.info["features"].get(k), k)
        }
        source.check_features([*self.keys, *statistic_keys])
        resize = config.pipeline.decoded_size
        self._resize = resize
        videos = [key for key in self.video_keys if key in source.video_keys]
        folder = Path(config.frame_cache) if config.frame_cache is not None else None
        self._cache = find_cache(source, videos, resize, folder)
        self._skipped = {i for i, task in source.tasks.items() if task in SKIPPED_TASKS}
        self._frames = [self._frames_to_skip_around(i) for i in range(source.num_episodes)]
        counts = [self._count(position) for position in range(source.num_episodes)]
        self._starts = np.concatenate(([0], np.cumsum(counts)))

    def _frames_to_skip_around(self, position: int) -> NDArray[np.int64] | None:
        """The frames that are samples; None where they are simply all up to the last actions."""
        if not self._skipped:
            return None
        is_good = self._good_frames(position)
        shift = self.config.window_start_idx
        frames = np.arange(max(len(is_good) - shift, 0))
        return frames[is_good[frames] & is_good[frames + shift]]

    def _good_frames(self, position: int) -> NDArray[np.bool_]:
        tasks = self.source.episode(position, ["task_index"])["task_index"]
        return ~np.isin(tasks, list(self._skipped))

    def _count(self, position: int) -> int:
        frames = self._frames[position]
        if frames is not None:
            return len(frames)
        return max(int(self.source.lengths[position]) - self.config.window_start_idx, 0)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def sample(self, index: int) -> dict[str, Any]:
        """What the files say of one sample; videos as their places."""
        position = int(np.searchsorted(self._starts, index, side="right")) - 1
        frames = self._frames[position]
        within = index - int(self._starts[position])
        frame = within if frames is None else int(frames[within])
        columns = self._columns(position)
        actions, mask = self.window(columns, position, frame)
        return {
            **{key: column[frame] for key, column in columns.items()},
            "actions": actions,
            "action_masks": mask,
            "task_description": self._task(int(columns["task_index"][frame]), position, frame),
            "episode_index": int(self.source.episode_indices[position]),
            "info": self.source.info,
            "videos": {
                k: self._stored(k, columns, position, frame)
                if k in self.source.image_keys
                else self._video(k, position, frame)
                for k in self.video_keys
            },
            "resize": self._resize,
            "fps": self.source.fps,
        }

    def _columns(self, position: int) -> Columns:
        """Of one episode; a state or action of one dimension is (frames, 1)."""
        columns = self.source.episode(position, self.keys)
        return {k: v[:, None] if k in self._scalars else v for k, v in columns.items()}

    @property
    def frames_from(self) -> str:
        """What is read for the cameras' pictures: videos, images, or a cache of some size."""
        if self._cache is not None and self._resize is not None:
            videos = f"cache {self._resize.height}x{self._resize.width}"
        else:
            videos = "videos"
        kinds = ["images" if key in self.source.image_keys else videos for key in self.video_keys]
        return " and ".join(dict.fromkeys(kinds)) or "none"

    def _stored(self, key: str, columns: Columns, position: int, frame: int) -> StoredImage:
        where = f"{self.source.where(position)}, {key}, frame {frame}"
        return StoredImage(data=columns[key][frame], root=self.source.root, where=where)

    def _video(self, key: str, position: int, frame: int) -> VideoSegment | CachedFrame:
        if self._cache is None:
            return self.source.video(key, position)
        episode = int(self.source.episode_indices[position])
        return CachedFrame(cache=self._cache, key=key, episode=episode, frame=frame)

    def _task(self, task_index: int, position: int, frame: int) -> str:
        if task_index not in self.source.tasks:
            raise DataError(
                f"{self.source.data_file(position)}: frame {frame}: task_index {task_index} is "
                "not among the dataset's tasks"
            )
        return self.source.tasks[task_index]

    def window(
        self, columns: Columns, position: int, frame: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Actions (H, A) of a frame, and which of them count."""
        column = columns[self.config.action_key]
        first = frame + self.config.window_start_idx
        rows = np.arange(first, first + self.config.action_window_size)
        end = len(column)
        if self._skipped:
            bad = np.flatnonzero(~self._good_frames(position)[first:])
            end = first + int(bad[0]) if len(bad) else end
        mask = rows < end
        if self.config.supervise_terminal_padding:
            mask = np.ones_like(mask)
        return column[np.minimum(rows, end - 1)].astype(np.float32), mask

    def converted_windows(self, steps: Sequence[UnitStep]) -> NDArray[np.float32]:
        """All supervised actions after the unit `steps`, (windows x steps, A).

        Raises:
            DataError: no frame has a window.
        """
        rows: list[NDArray[np.float32]] = []
        for position in range(self.source.num_episodes):
            columns = self._columns(position)
            frames = self._frames[position]
            frames = np.arange(self._count(position)) if frames is None else frames
            if len(frames):
                windows = [self.window(columns, position, int(frame)) for frame in frames]
                actions = np.stack([window for window, _ in windows])
                masks = np.stack([mask for _, mask in windows])
                states = columns["observation.state"][frames]
                sample = apply(steps, {"states": states, "actions": actions})
                rows.append(sample["actions"][masks])
        if not rows:
            raise DataError(
                f"{self.source.root}: no frame has an action of its own (window_start_idx "
                f"{self.config.window_start_idx}, tasks {' and '.join(SKIPPED_TASKS)} left out), "
                "so relative actions have no statistics. Leave the dataset out"
            )
        return np.concatenate(rows)


def is_scalar_vector(feature: Mapping[str, Any] | None, key: str) -> bool:
    """Whether a feature is a vector of one number, which LeRobot stores as a number a row."""
    if feature is None or key in BOOKKEEPING or feature["dtype"] in NO_NUMBERS:
        return False
    return list(feature["shape"]) == [1]


def check_cameras(source: LeRobotDataset, inputs: DatasetInputs) -> tuple[str, ...]:
    """Returns the cameras the config asks for; a missing one is an error."""
    available = (*source.video_keys, *source.image_keys)
    for key in inputs.video_keys:
        if key not in available:
            raise DataError(
                f"{source.root}: no camera {key!r} in the dataset. "
                f"It has: {', '.join(available) or 'none'}"
            )
    return tuple(inputs.video_keys)
