"""What a folder holds to which episodes are to be appended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.errors import DataError, UsageError

from ..lerobot.metadata import json_rows, order_of_episodes, read_info, read_table, text_rows
from ..lerobot.stored_columns import Features
from ..lerobot.writer import WriterV30

OWN_KEYS = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
OWN_PREFIXES = ("stats/", "data/", "videos/", "meta/")
ANOTHER = "Record to another folder; flux-data merge joins datasets"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The metadata of a dataset, as far as the files of its episodes are certainly there.

    Attributes:
        root: the folder.
        info: the content of `info.json`; empty if a kill has come before it was written.
        episodes: the line of each episode, without statistics.
        stats: the statistics of each.
        tasks: the rows of the table of tasks by number.
    """

    root: Path
    info: Mapping[str, Any]
    episodes: Sequence[dict[str, Any]]
    stats: Sequence[dict[str, Any]]
    tasks: Mapping[int, Mapping[str, object]]

    @property
    def fact_names(self) -> set[str]:
        """The keys of the episodes that are no part of the format."""
        return {
            key
            for line in self.episodes
            for key in line
            if key not in OWN_KEYS and not key.startswith(OWN_PREFIXES)
        }

    def check_same(
        self,
        *,
        robot_type: str | None,
        fps: float,
        features: Features,
        own: Mapping[str, object],
    ) -> None:
        """Refuses to append episodes that another robot or other settings would record.

        Raises:
            UsageError: the message has both values.
        """
        if not self.info:
            return
        pairs = {
            "robot_type": (self.info.get("robot_type"), robot_type),
            "fps": (float(self.info.get("fps", 0)), float(fps)),
            **{key: (self.info.get(key, value), value) for key, value in own.items()},
        }
        there, new = self.info.get("features", {}), features
        pairs["the features"] = (", ".join(sorted(there)), ", ".join(sorted(new)))
        for key in sorted(there.keys() & new.keys()):
            for name in ("dtype", "shape", "names"):
                pairs[f"{key}: {name}"] = (there[key].get(name), new[key].get(name))
        for what, (found, wanted) in pairs.items():
            if found != wanted:
                raise UsageError(
                    f"{self.root}: expected a dataset with {what} {_text(wanted)}, as this run "
                    f"records, got {_text(found)}. {ANOTHER}"
                )


def read_recorded(root: Path, version: str) -> Recorded | None:
    """Reads the metadata of the episodes that a folder holds; None if it holds none.

    Raises:
        UsageError: it holds something else, or a dataset of another version.
        DataError: its metadata is damaged.
    """
    meta = root / "meta"
    info = read_info(root) if (meta / "info.json").is_file() else {}
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if not info and (set(names) - {"meta", "data", "videos"} or (names and not _is_ours(root))):
        raise UsageError(
            f"{root}: expected an empty folder or a recorded dataset, got {', '.join(names[:5])}. "
            f"Name another one"
        )
    if info and info.get("codebase_version") != version:
        raise UsageError(
            f"{root}: expected a dataset of version {version}, got "
            f"{info.get('codebase_version')}. Add --to {info.get('codebase_version')}, or name "
            f"another folder"
        )
    if version == "v2.1" and (meta / "stats.json").is_file():
        raise UsageError(
            f"{meta / 'stats.json'}: holds statistics that more episodes would make wrong. "
            f"{ANOTHER}"
        )
    recorded = _read_v21(root, info) if version == "v2.1" else _read_v30(root, info)
    if recorded.episodes:
        _check_complete(recorded)
    return recorded if recorded.episodes or info else None


def _is_ours(root: Path) -> bool:
    """Whether a folder without `info.json` was left by a recording that was killed at once."""
    files = [path for path in root.rglob("*") if path.is_file() and ".recording" not in path.parts]
    places = ("data", "videos", "meta")
    return all(path.relative_to(root).parts[0] in places for path in files)


def _read_v21(root: Path, info: Mapping[str, Any]) -> Recorded:
    if not (root / "meta" / "episodes.jsonl").is_file():
        return Recorded(root=root, info=info, episodes=(), stats=(), tasks={})
    lines = json_rows(root, "episodes.jsonl")
    episodes = [dict(lines[place][1]) for place in order_of_episodes(lines)]
    stats = {
        row["episode_index"]: row["stats"] for _, row in json_rows(root, "episodes_stats.jsonl")
    }
    tasks = {row["task_index"]: row for _, row in json_rows(root, "tasks.jsonl")}
    return _recorded(root, info, episodes, stats, tasks)


def _read_v30(root: Path, info: Mapping[str, Any]) -> Recorded:
    files = sorted((root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        return Recorded(root=root, info=info, episodes=(), stats=(), tasks={})
    lines = [(str(file), row) for file in files for row in read_table(file).to_pylist()]
    episodes: list[dict[str, Any]] = []
    stats: dict[int, dict[str, Any]] = {}
    for number, place in enumerate(order_of_episodes(lines)):
        row = lines[place][1]
        episodes.append({k: v for k, v in row.items() if not k.startswith(("stats/", "meta/"))})
        stats[number] = _stats(row)
    path = root / "meta" / "tasks.parquet"
    tasks = {row["task_index"]: row for _, row in text_rows(path, read_table(path), "task")}
    return _recorded(root, info, episodes, stats, tasks)


def _stats(row: Mapping[str, Any]) -> dict[str, Any]:
    stats: dict[str, dict[str, Any]] = {}
    for column, value in row.items():
        if column.startswith("stats/") and value is not None:
            key, _, name = column.removeprefix("stats/").rpartition("/")
            stats.setdefault(key, {})[name] = value
    return stats


def _recorded(
    root: Path,
    info: Mapping[str, Any],
    episodes: Sequence[dict[str, Any]],
    stats: Mapping[int, dict[str, Any]],
    tasks: Mapping[int, Mapping[str, object]],
) -> Recorded:
    for line in episodes:
        if line["episode_index"] not in stats:
            raise DataError(
                f"{root / 'meta'}: expected the statistics of episode {line['episode_index']}, "
                f"got none. {ANOTHER}"
            )
    in_order = [stats[line["episode_index"]] for line in episodes]
    return Recorded(root=root, info=info, episodes=episodes, stats=in_order, tasks=tasks)


def files_of(root: Path, recorded: Recorded) -> list[Path]:
    """Returns the data files of a dataset of version 3.0, in the order of the episodes."""
    template = recorded.info.get("data_path", WriterV30.data_path)
    places = (
        {name: line[f"data/{name}"] for name in ("chunk_index", "file_index")}
        for line in recorded.episodes
    )
    return list(dict.fromkeys(root / template.format(**place) for place in places))


def _check_complete(recorded: Recorded) -> None:
    """Refuses a dataset whose episodes lack files, to which nothing should be appended."""
    for path in _stated_files(recorded):
        if not path.is_file():
            raise DataError(
                f"{path}: not found, although the metadata names it. Save the others with "
                f"flux-data repair, and record to another folder"
            )


def _stated_files(recorded: Recorded) -> Iterable[Path]:
    info, root = recorded.info, recorded.root
    if not info:
        return
    keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    if info["codebase_version"] == "v3.0":
        yield from files_of(root, recorded)
        for line in recorded.episodes:
            for key in keys:
                place = {n: line[f"videos/{key}/{n}"] for n in ("chunk_index", "file_index")}
                yield root / info["video_path"].format(video_key=key, **place)
        return
    for line in recorded.episodes:
        index = line["episode_index"]
        place = {"episode_chunk": index // info["chunks_size"], "episode_index": index}
        yield root / info["data_path"].format(**place)
        for key in keys:
            yield root / info["video_path"].format(video_key=key, **place)


def _text(value: object) -> str:
    text = repr(value) if not isinstance(value, float) else f"{value:g}"
    return text if len(text) <= 200 else f"{text[:197]}..."
