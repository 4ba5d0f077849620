"""Checks before a run's first step that all its files exist and that its rates are true."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flux_core.errors import DataError
from flux_core.incomplete_file import why_incomplete

from .lerobot.dataset import LeRobotDataset
from .parquet.arrow import unreadable
from .repairable import naming_repair

logger = logging.getLogger("flux.data")

MAX_RATE_ERROR = 0.1
"""How far the rate of the rows may be off that of info.json, as a share; clocks are better."""


@dataclass(frozen=True, kw_only=True)
class MissingFile:
    """A file that cannot be read, and why."""

    path: Path
    reason: str


def check_files(sources: Iterable[tuple[LeRobotDataset, Sequence[str]]]) -> None:
    """Refuses missing and empty files, and pointers of Git LFS.

    Args:
        sources: the datasets of the run, each with its cameras.

    Raises:
        DataError: it names the first such file, and says how many more there are.
    """
    chosen = list(sources)
    missing = [file for source, cameras in chosen for file in missing_files(source, cameras)]
    if not missing:
        return
    first, more = missing[0], len(missing) - 1
    others = f" ({more} more of the run's files cannot be read either)" if more else ""
    with naming_repair(*(source.root for source, _ in chosen)):
        raise DataError(f"{first.path}: {first.reason}{others}")


def warn_of_rates(sources: Iterable[LeRobotDataset]) -> None:
    """Logs one warning per dataset whose rows follow each other at another rate than stated.

    A policy is deployed at the stated rate.
    """
    for source in sources:
        rate = _rate_of_rows(source)
        if abs(rate / source.fps - 1) > MAX_RATE_ERROR:
            logger.warning(
                "%s: fps: expected %.3g, the rate of the rows' timestamps, got %.3g. A robot would "
                "run at the latter; correct the one that is wrong",
                source.root / "meta" / "info.json",
                rate,
                source.fps,
            )


def _rate_of_rows(source: LeRobotDataset) -> float:
    """Returns the rows per second of the longest episode; the stated rate if none can be read."""
    try:
        longest = int(np.argmax(source.lengths))
        times_s = source.read_episode(longest, ["timestamp"])["timestamp"]
        steps_s = np.diff(times_s.ravel().astype(np.float64))
    except DataError:  # told where the times are needed
        return source.fps
    return float(1 / np.median(steps_s)) if len(steps_s) else source.fps


def missing_files(source: LeRobotDataset, cameras: Sequence[str]) -> Iterator[MissingFile]:
    """Yields the files of a dataset that are missing or incomplete, each once."""
    positions = range(source.num_episodes)
    yield from _missing(source.data_files(), "parquet")
    videos = [key for key in cameras if key in source.video_keys]
    yield from _missing((source.video(key, i).path for key in videos for i in positions), "video")
    for key in (key for key in cameras if key in source.image_keys):
        yield from _missing_images(source, key)


def _missing(paths: Iterable[Path], kind: str) -> Iterator[MissingFile]:
    for path in dict.fromkeys(paths):
        if not path.is_file():
            yield MissingFile(path=path, reason=f"the {kind} file is missing")
        elif reason := why_incomplete(path):
            yield MissingFile(path=path, reason=f"expected a {kind} file, got {reason}")


def _missing_images(source: LeRobotDataset, key: str) -> Iterator[MissingFile]:
    """Yields the images of a camera that are files of their own and are missing."""
    names: dict[Path, set[str]] = {}
    for file in source.data_files():
        for name in dict.fromkeys(_image_paths(file, key) if file.is_file() else ()):
            path = source.root / name
            if path.parent not in names:  # one listing is faster than a stat for each image
                folder = path.parent
                names[folder] = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
                if path.name in names[folder] and (reason := why_incomplete(path)):
                    yield MissingFile(path=path, reason=f"expected an image file, got {reason}")
            if path.name not in names[path.parent]:
                yield MissingFile(path=path, reason="the image file is missing")


def _image_paths(file: Path, key: str) -> list[str]:
    """Returns the paths in a column of images; none if the file holds the images themselves."""
    try:
        with pq.ParquetFile(file, memory_map=True) as opened:
            if key not in opened.schema_arrow.names:  # told when it is read
                return []
            kind = opened.schema_arrow.field(key).type
            if not pa.types.is_struct(kind):
                return _texts(opened.read([key]).column(0)) if pa.types.is_string(kind) else []
            groups = [g for g in range(opened.num_row_groups) if _has_no_bytes(opened, g, key)]
            if not groups or kind.get_field_index("path") < 0:
                return []
            return _texts(opened.read_row_groups(groups, [f"{key}.path"]).column(0))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from error


def _has_no_bytes(file: pq.ParquetFile, group: int, key: str) -> bool:
    """Whether all images of a row group are paths, according to the file's footer."""
    row_group = file.metadata.row_group(group)
    for number in range(row_group.num_columns):
        column = row_group.column(number)
        if column.path_in_schema == f"{key}.bytes":
            stats = column.statistics
            return stats is not None and stats.null_count == row_group.num_rows
    return True


def _texts(column: pa.ChunkedArray) -> list[str]:
    values = column.to_pylist()
    texts = [value.get("path") if isinstance(value, dict) else value for value in values]
    return [text for text in texts if isinstance(text, str)]
