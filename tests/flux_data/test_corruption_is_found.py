"""Faults planted in the code: the check on random datasets finds each of them.

If one is not found, the check has become blind to that kind of corruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from flux_data.convert import lerobot as conversion
from flux_data.convert.text_tables import NewNumbers
from flux_data.lerobot import stored_columns, video_copy
from flux_data.lerobot.dataset import LeRobotDataset, LeRobotV2, LeRobotV3
from flux_data.lerobot.episode_rows import SharedFiles
from flux_data.lerobot.video_copy import JoinedVideo
from flux_data.lerobot.writer import DatasetWriter
from flux_data.video.reader import VideoReader

from .coded_properties import (
    Command,
    convert,
    convert_and_back,
    merge,
    split,
    train,
    try_datasets,
)
from .coded_strategies import PLAIN

Change = Callable[[pytest.MonkeyPatch], None]
Patch = pytest.MonkeyPatch


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault in the code, the kind of dataset that shows it, and where it is looked for."""

    change: Change
    plant: str = PLAIN
    commands: Sequence[Command]


def joined_videos_start_one_frame_late(patch: Patch) -> None:
    append = JoinedVideo.append

    def late(self: JoinedVideo, segment: Any, rows_s: Any, fps: float, where: str) -> float:
        return append(self, segment, rows_s, fps, where) + 1 / fps

    patch.setattr(JoinedVideo, "append", late)


def rows_are_copied_as_if_they_were_even(patch: Patch) -> None:
    find = video_copy.frames_of_rows

    def even(stamps_s: Any, rows_s: Any, start_s: float, fps: float, where: str) -> Any:
        return find(stamps_s, np.arange(len(rows_s)) / fps, start_s, fps, where)

    patch.setattr(video_copy, "frames_of_rows", even)


def frames_are_read_one_period_late(patch: Patch) -> None:
    read = VideoReader.frame

    def late(self: VideoReader, path: Any, time_s: float, tolerance_s: float) -> Any:
        return read(self, path, time_s + 2 * tolerance_s, 4 * tolerance_s)

    patch.setattr(VideoReader, "frame", late)


def videos_of_two_episodes_are_swapped(patch: Patch) -> None:
    for layout in (LeRobotV2, LeRobotV3):
        find = layout.video

        def other(self: Any, key: str, position: int, find: Any = find) -> Any:
            return find(self, key, self.num_episodes - 1 - position)

        patch.setattr(layout, "video", other)


def rows_of_two_episodes_are_swapped(patch: Patch) -> None:
    find = LeRobotDataset.rows
    patch.setattr(LeRobotDataset, "rows", lambda self, i: find(self, self.num_episodes - 1 - i))


def rows_are_found_by_position(patch: Patch) -> None:
    patch.setattr(SharedFiles, "find", lambda self, position: (self.stated(position),))


def numbers_stay_when_their_table_changes(patch: Patch) -> None:
    patch.setattr(NewNumbers, "__call__", lambda self, key, numbers, where: numbers)


def references_change_without_their_table(patch: Patch) -> None:
    def change(self: NewNumbers, key: str, numbers: Any, where: str) -> Any:
        is_reference = key.startswith("annotation.") or key in ("subtask_index", "phase_index")
        return numbers + 1 if is_reference else numbers

    patch.setattr(NewNumbers, "__call__", change)


def tasks_change_without_their_table(patch: Patch) -> None:
    def change(self: NewNumbers, key: str, numbers: Any, where: str) -> Any:
        return np.full_like(numbers, numbers[0]) if key == "task_index" else numbers

    patch.setattr(NewNumbers, "__call__", change)


def files_of_other_programs_are_lost(patch: Patch) -> None:
    patch.setattr(conversion, "kept_files", lambda *_, **__: iter(()))


def values_are_cast(patch: Patch) -> None:
    def cast(values: Any, dtype: Any, *_: object) -> Any:
        with np.errstate(all="ignore"):
            return values.astype(dtype)

    patch.setattr(stored_columns, "narrowed", cast)


def refused_output_stays(patch: Patch) -> None:
    patch.setattr(DatasetWriter, "_remove", lambda self: None)


FAULTS = (
    Fault(change=joined_videos_start_one_frame_late, commands=(convert, merge)),
    Fault(change=rows_are_copied_as_if_they_were_even, plant="dropped rows", commands=(convert,)),
    Fault(change=rows_are_copied_as_if_they_were_even, plant="late rows", commands=(split,)),
    Fault(change=frames_are_read_one_period_late, commands=(train,)),
    Fault(change=videos_of_two_episodes_are_swapped, commands=(convert, merge, split)),
    Fault(change=videos_of_two_episodes_are_swapped, commands=(train,)),
    Fault(change=rows_of_two_episodes_are_swapped, commands=(convert_and_back,)),
    Fault(change=rows_of_two_episodes_are_swapped, commands=(train,)),
    Fault(change=rows_are_found_by_position, plant="scrambled starts", commands=(convert,)),
    Fault(change=rows_are_found_by_position, plant="scrambled starts", commands=(train,)),
    Fault(change=numbers_stay_when_their_table_changes, commands=(merge,)),
    Fault(change=references_change_without_their_table, commands=(convert, split)),
    Fault(change=tasks_change_without_their_table, commands=(convert, split)),
    Fault(change=files_of_other_programs_are_lost, commands=(convert,)),
    Fault(change=files_of_other_programs_are_lost, commands=(split,)),
    Fault(change=values_are_cast, plant="too wide", commands=(convert,)),
    Fault(change=refused_output_stays, plant="too wide", commands=(convert,)),
)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=f"{fault.change.__name__} in {fault.commands[0].__name__}")
        for fault in FAULTS
    ],
)
def test_the_check_on_random_datasets_finds(fault: Fault, monkeypatch: Patch) -> None:
    fault.change(monkeypatch)
    with pytest.raises((AssertionError, IndexError)):
        try_datasets(fault.plant, 40, commands=fault.commands, is_shrunk=False)
