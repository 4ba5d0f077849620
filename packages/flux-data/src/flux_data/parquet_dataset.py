"""Windows of actions over LeRobot episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import ConfigError, DataError
from flux_core.norm_stats import FeatureStats
from flux_core.transforms import (
    NormalizeImages,
    NormalizeStatesAndActions,
    PadKeyToDim,
    ParquetPrompter,
    PreparePromptWithState,
    ProcessPrompts,
    RelativeActions,
    ResizeImages,
    SimpleNormalizeImages,
    apply,
)

from .lerobot_v21 import LeRobotV21
from .process_inputs import ProcessParquetInputs

TrainingTransform = (
    ProcessParquetInputs
    | ParquetPrompter
    | RelativeActions
    | NormalizeStatesAndActions
    | PadKeyToDim
    | PreparePromptWithState
    | ProcessPrompts
    | ResizeImages
    | SimpleNormalizeImages
    | NormalizeImages
)


class ParquetDataset:
    """Samples of one or several LeRobot v2.1 directories of the same robot.

    The sample of row t holds actions `action_key[t + window_start_idx + k]` for k = 0 .. H-1. A
    window never leaves its episode: past the end it repeats the last action with mask 0.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """`action_window_size` is H; real robots without recorded actions use the next states
        (`action_key='observation.state'`, `window_start_idx=1`)."""

        data_root_path: str | tuple[str, ...]
        transforms: tuple[TrainingTransform, ...]
        action_window_size: int = 9
        action_key: str = "observation.state"
        window_start_idx: int = 1

        def __post_init__(self) -> None:
            if self.action_window_size < 1 or self.window_start_idx < 0:
                raise ConfigError(
                    "action_window_size must be at least 1 and window_start_idx at least 0, got "
                    f"{self.action_window_size} and {self.window_start_idx}"
                )

        @property
        def roots(self) -> tuple[str, ...]:
            """The directories."""
            path = self.data_root_path
            return (path,) if isinstance(path, str) else path

        def build(self, statistic_keys: Sequence[str] = ()) -> ParquetDataset:
            return ParquetDataset(self, statistic_keys)

    def __init__(self, config: Config, statistic_keys: Sequence[str] = ()) -> None:
        self.config = config
        self.parts = [_Part(LeRobotV21(root), config, statistic_keys) for root in config.roots]
        self._ends = np.cumsum([len(part) for part in self.parts])
        self.stats: Mapping[str, FeatureStats] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def transforms(self) -> tuple[TrainingTransform, ...]:
        """What is done to a raw sample, in order."""
        return self.config.transforms

    def raw_sample(self, index: int) -> dict[str, Any]:
        """The sample before any transform."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return {**self.parts[part].sample(index - start), "stats": self.stats}

    def __getitem__(self, index: int) -> dict[str, Any]:
        return apply(self.transforms, self.raw_sample(index))

    def column(self, key: str) -> NDArray[Any]:
        """One feature over all frames."""
        return np.concatenate([part.columns[key] for part in self.parts])

    def relative_transform(self) -> RelativeActions | None:
        """The transform that makes the actions relative, if there is one."""
        found = [t for t in self.transforms if isinstance(t, RelativeActions)]
        return found[0] if found else None


class _Part:
    """One directory."""

    def __init__(
        self, source: LeRobotV21, config: ParquetDataset.Config, statistic_keys: Sequence[str]
    ) -> None:
        self.source, self.config = source, config
        inputs = next((t for t in config.transforms if isinstance(t, ProcessParquetInputs)), None)
        if inputs is None:
            raise ConfigError("transforms: expected ProcessParquetInputs first, found none")
        self.video_keys = check_cameras(source, inputs)
        keys = {"timestamp", "task_index", config.action_key, "observation.state", *statistic_keys}
        keys |= {k for k in inputs.parquet_keys if k in source.info["features"]}
        self.columns = source.columns(sorted(keys))

    def __len__(self) -> int:
        return int(self.source.episode_starts[-1])

    def sample(self, row: int) -> dict[str, Any]:
        starts = self.source.episode_starts
        episode = int(np.searchsorted(starts, row, side="right")) - 1
        actions, mask = self.window(row, int(starts[episode + 1]))
        task_index = int(self.columns["task_index"][row])
        if task_index not in self.source.tasks:
            raise DataError(f"{self.source.root}: task_index {task_index} is not in tasks.jsonl")
        values = {key: column[row] for key, column in self.columns.items()}
        episode_index = self.source.episodes[episode].index
        return {
            **values,
            "actions": actions,
            "action_masks": mask,
            "task_description": self.source.tasks[task_index],
            "episode_index": episode_index,
            "info": self.source.info,
            "video_paths": {k: self.source.video_path(k, episode_index) for k in self.video_keys},
            "fps": self.source.fps,
        }

    def window(self, row: int, end: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Actions (H, A) from `row` on, and which of them lie before the episode's `end`."""
        first = row + self.config.window_start_idx
        rows = np.arange(first, first + self.config.action_window_size)
        column = self.columns[self.config.action_key]
        return column[np.minimum(rows, end - 1)].astype(np.float32), rows < end


def check_cameras(source: LeRobotV21, inputs: ProcessParquetInputs) -> tuple[str, ...]:
    """Returns the cameras the config asks for; a missing one is an error."""
    for key in inputs.video_keys:
        if key not in source.video_keys:
            raise DataError(
                f"{source.root}: no camera {key!r} in the dataset. "
                f"It has: {', '.join(source.video_keys) or 'none'}"
            )
    return tuple(inputs.video_keys)
