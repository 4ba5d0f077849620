"""A damaged dataset: its `info.json`, and where its files are to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.errors import DataError

from ..lerobot.dataset import LAYOUTS, LeRobotV2, LeRobotV3
from ..lerobot.metadata import check_info, read_info
from ..lerobot.writer import CHUNKS_SIZE, WRITERS
from .lines import Line, whole_number
from .notes import Notes


@dataclass(frozen=True, kw_only=True)
class DamagedDataset:
    """The dataset's folder and `info.json`; the rest may be damaged."""

    root: Path
    info: Mapping[str, Any]

    @property
    def is_v3(self) -> bool:
        """Whether files hold several episodes."""
        return self.info["codebase_version"] == "v3.0"

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info["fps"])

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features stored as video."""
        features = self.info["features"]
        return tuple(key for key, feature in features.items() if feature["dtype"] == "video")

    def own_data(self, index: int) -> Path:
        """Returns the parquet file of an episode in v2.x."""
        return self.root / self.info["data_path"].format(**self._own_place(index))

    def own_video(self, key: str, index: int) -> Path:
        """Returns the video of an episode in v2.x."""
        name = self.info["video_path"].format(video_key=key, **self._own_place(index))
        return self.root / name

    def _own_place(self, index: int) -> dict[str, int]:
        return {"episode_chunk": index // self.info["chunks_size"], "episode_index": index}

    def named_data(self, line: Line) -> Path | None:
        """Returns the parquet file that a line of v3.0 names; None if it names none."""
        place = _shared_place(line.values, "data")
        return None if place is None else self.root / self.info["data_path"].format(**place)

    def named_video(self, key: str, line: Line) -> Path | None:
        """Returns the video that a line of v3.0 names for a camera; None if it names none."""
        place = _shared_place(line.values, f"videos/{key}")
        if place is None:
            return None
        return self.root / self.info["video_path"].format(video_key=key, **place)


def _shared_place(values: Mapping[str, Any], prefix: str) -> dict[str, int] | None:
    place: dict[str, int] = {}
    for name in ("chunk_index", "file_index"):
        number = whole_number(values.get(f"{prefix}/{name}"))
        if number is None:
            return None
        place[name] = number
    return place


def open_source(root: Path, notes: Notes) -> DamagedDataset:
    """Reads info.json; path templates that cannot be used become LeRobot's own.

    Raises:
        DataError: it is missing, or lacks something that nothing else says.
    """
    path, info = root / "meta" / "info.json", read_info(root)
    version = info.get("codebase_version")
    layout = next((layout for layout in LAYOUTS if version in layout.versions), None)
    if layout is None:
        known = ", ".join(version for layout in LAYOUTS for version in layout.versions)
        raise DataError(f"{path}: expected codebase_version {known}, got {version}")
    writer = WRITERS["v3.0" if layout is LeRobotV3 else "v2.1"]
    usual: dict[str, object] = {"data_path": writer.data_path, "video_path": writer.video_path}
    if layout is LeRobotV2:
        usual["chunks_size"] = CHUNKS_SIZE
    check_info(path, {**info, **usual}, layout.places)  # what nothing else says
    for key, value in usual.items():
        others = {k: v for k, v in usual.items() if k != key}
        try:
            check_info(path, {**info, **others}, layout.places)
        except DataError:
            notes.corrected(path, f"{key}: expected LeRobot's {value!r}, got {info.get(key)!r}")
            info[key] = value
    return DamagedDataset(root=root, info=info)
