"""A folder with sound metadata and links to the files of episodes that are to be saved.

It is an ordinary dataset, numbered anew, so that everything that reads datasets also judges and
copies what a repair saves. Tables are written again only where their counters change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flux_core.errors import DataError

from ..lerobot.metadata import file_rows, read_table, text_rows, texts_of
from ..lerobot.stored_columns import fact_column, write_text_table
from ..lerobot.writer import CHUNKS_SIZE, WriterV21, WriterV30, write_json
from .candidate import Candidate, EpisodesFound

WRITTEN = ("info.json", "tasks.jsonl", "tasks.parquet", "episodes.jsonl", "episodes")
WRITTEN += ("episodes_stats.jsonl", "stats.json")
"""The files in `meta/` that a stage has of its own."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The folder, its episodes, and where each of its files comes from."""

    folder: Path
    episodes: Sequence[Candidate]
    sources: Mapping[Path, Path]

    def in_source(self, text: str) -> str:
        """Returns a text with the files of the source in place of the stage's."""
        files = re.escape(str(self.folder)) + r"/[^:\n]*?\.(?:parquet|mp4|jsonl|json)\b"
        for path in re.findall(files, text):
            text = text.replace(path, str(self.sources.get(Path(path), path)))
        return text


@dataclass(kw_only=True)
class _Builder:
    """Writes one stage."""

    found: EpisodesFound
    folder: Path
    episodes: Sequence[Candidate]
    sources: dict[Path, Path] = field(default_factory=dict)
    _tables: dict[Path, pa.Table] = field(default_factory=dict)

    def table(self, path: Path) -> pa.Table:
        """Returns a data file; the last one stays in memory for the next episode."""
        if path not in self._tables:
            self._tables = {path: read_table(path)}
        return self._tables[path]

    def link(self, path: Path, name: str) -> None:
        """Makes a link in the stage; one to a missing file is missing, too."""
        place = self.folder / name
        self.sources[place] = path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            place.symlink_to(path.resolve())


def write_stage(
    found: EpisodesFound,
    episodes: Sequence[Candidate],
    folder: Path,
    *,
    with_stats: bool,
    with_whole: bool,
) -> Stage:
    """Writes a stage of these episodes.

    Args:
        found: the dataset.
        episodes: those of its episodes that are to be saved, in order.
        folder: a path that does not exist.
        with_stats: whether to include the source's statistics of each episode.
        with_whole: whether to include those of the whole dataset.
    """
    builder = _Builder(found=found, folder=folder, episodes=episodes)
    (folder / "meta").mkdir(parents=True)
    _link_others(builder, with_whole)
    lines = _write_v3(builder) if found.source.is_v3 else _write_v2(builder)
    _write_info(builder)
    _write_tasks(builder)
    if found.source.is_v3:
        _write_episodes_v3(builder, lines, with_stats)
    else:
        _write_episodes_v2(builder, lines, with_stats)
    return Stage(folder=folder, episodes=episodes, sources=builder.sources)


def _link_others(builder: _Builder, with_whole: bool) -> None:
    """Links everything that is neither data nor one of LeRobot's metadata files."""
    root = builder.found.source.root
    for path in sorted(root.iterdir()):
        if path.name not in ("meta", "data", "videos"):
            builder.link(path, path.name)
    meta = root / "meta"
    for path in sorted(path for path in meta.rglob("*") if path.is_file()):
        first = path.relative_to(meta).parts[0]
        is_checked = first == "stats.json" and with_whole
        if first not in WRITTEN or is_checked:
            builder.link(path, str(path.relative_to(root)))


def _write_v2(builder: _Builder) -> list[dict[str, Any]]:
    """Links or writes each episode's table and videos; returns the episodes' places."""
    for number, (episode, first) in enumerate(_numbered(builder.episodes)):
        place = {"episode_chunk": number // CHUNKS_SIZE, "episode_index": number}
        name = WriterV21.data_path.format(**place)
        if _is_numbered(episode, number, first):
            builder.link(episode.run.path, name)
        else:
            _write_rows(builder, episode, number, first, name)
        for key, segment in episode.videos.items():
            builder.link(segment.path, WriterV21.video_path.format(video_key=key, **place))
    return [{} for _ in builder.episodes]


def _write_v3(builder: _Builder) -> list[dict[str, Any]]:
    """Links data files that stay as they are; writes one file for each other episode."""
    lines = list[dict[str, Any]]()
    videos: dict[Path, tuple[str, dict[str, int]]] = {}
    kept = _files_kept(builder.episodes)
    names: dict[Path, dict[str, int]] = {}
    num_files = 0
    for number, (episode, first) in enumerate(_numbered(builder.episodes)):
        path = episode.run.path
        if path not in names or path not in kept:
            place = _file_place(num_files)
            num_files += 1
            names[path] = place
            name = WriterV30.data_path.format(**place)
            if path in kept:
                builder.link(path, name)
            else:
                _write_rows(builder, episode, number, first, name)
        line: dict[str, Any] = {f"data/{key}": value for key, value in names[path].items()}
        line |= {"dataset_from_index": first, "dataset_to_index": first + episode.run.length}
        for key, segment in episode.videos.items():
            if segment.path not in videos:
                place = _file_place(len(videos))
                videos[segment.path] = key, place
                builder.link(segment.path, WriterV30.video_path.format(video_key=key, **place))
            end_s = segment.start_s + episode.run.length / builder.found.source.fps
            times = {"from_timestamp": segment.start_s, "to_timestamp": end_s}
            where = {**videos[segment.path][1], **times}
            line |= {f"videos/{key}/{name}": value for name, value in where.items()}
        lines.append(line)
    return lines


def _file_place(number: int) -> dict[str, int]:
    return {"chunk_index": number // CHUNKS_SIZE, "file_index": number % CHUNKS_SIZE}


def _numbered(episodes: Sequence[Candidate]) -> list[tuple[Candidate, int]]:
    """Returns each episode with the number of rows before it."""
    starts = np.concatenate(([0], np.cumsum([episode.run.length for episode in episodes])))
    return list(zip(episodes, starts[:-1].astype(int).tolist(), strict=True))


def _is_numbered(episode: Candidate, number: int, first: int) -> bool:
    """Whether the rows' counters are right in the stage."""
    run = episode.run
    is_counted = run.order in ("right", "unclear") and run.first_index == first
    return run.states == number and is_counted and len(run.spans) == 1


def _files_kept(episodes: Sequence[Candidate]) -> set[Path]:
    """Returns the data files that hold nothing but rows of the stage, in order and numbered."""
    ends: dict[Path, int] = {}
    wrong: set[Path] = set()
    last: Path | None = None
    for number, (episode, first) in enumerate(_numbered(episodes)):
        run = episode.run
        is_next = run.first == ends.get(run.path, 0) and (run.path == last or run.path not in ends)
        if not is_next or not _is_numbered(episode, number, first):
            wrong |= {span.path for span in run.spans}
        ends[run.path], last = run.first + run.length, run.path
    return {path for path, end in ends.items() if pq.read_metadata(path).num_rows == end} - wrong


def _write_rows(builder: _Builder, episode: Candidate, number: int, first: int, name: str) -> None:
    """Writes an episode's rows with counters that are right in the stage."""
    run, path = episode.run, builder.folder / name
    parts = [builder.table(span.path).slice(span.first, span.length) for span in run.spans]
    table = pa.concat_tables(parts)
    frames = np.arange(run.length, dtype=np.int64)
    if run.order == "shuffled":
        table = table.take(np.argsort(np.asarray(table.column("frame_index")), kind="stable"))
    counters = {"episode_index": np.full_like(frames, number), "index": frames + first}
    if run.order == "stale":
        counters["frame_index"] = frames
    for key, values in counters.items():
        if key in table.column_names:
            at = table.column_names.index(key)
            table = table.set_column(at, key, pa.array(values))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    builder.sources[path] = run.path


def _write_info(builder: _Builder) -> None:
    found, count = builder.found, len(builder.episodes)
    writer = WriterV30 if found.source.is_v3 else WriterV21
    info = {
        **found.source.info,
        "total_episodes": count,
        "total_frames": sum(episode.run.length for episode in builder.episodes),
        "total_tasks": len(found.tasks),
        "data_path": writer.data_path,
        "splits": new_splits(found.source.info, builder.episodes),
    }
    if found.source.video_keys:
        info["video_path"] = writer.video_path
    if not found.source.is_v3:
        info |= {
            "total_videos": count * len(found.source.video_keys),
            "total_chunks": -(-count // CHUNKS_SIZE),
            "chunks_size": CHUNKS_SIZE,
        }
    write_json(builder.folder / "meta" / "info.json", info)
    builder.sources[builder.folder / "meta" / "info.json"] = (
        found.source.root / "meta" / "info.json"
    )


def new_splits(info: Mapping[str, Any], episodes: Sequence[Candidate]) -> dict[str, Any]:
    """Returns the ranges of episodes with their new numbers; other values are kept."""
    splits, count = info.get("splits"), len(episodes)
    if not isinstance(splits, Mapping):
        return {"train": f"0:{count}"}

    def renumbered(end: str) -> int:
        # The end of the last range may count episodes that have higher numbers.
        is_all = int(end) == info.get("total_episodes")
        return count if is_all else sum(episode.index < int(end) for episode in episodes)

    found: dict[str, Any] = {}
    for name, text in splits.items():
        ends = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(text))
        found[name] = f"{renumbered(ends[1])}:{renumbered(ends[2])}" if ends else text
    return found


def _write_tasks(builder: _Builder) -> None:
    """Links the table of tasks if it is as it should be, and else writes it again."""
    found, meta = builder.found, builder.folder / "meta"
    name = "tasks.parquet" if found.source.is_v3 else "tasks.jsonl"
    path = found.source.root / "meta" / name
    if _texts_in(path) == found.tasks:
        builder.link(path, f"meta/{name}")
        return
    builder.sources[meta / name] = path
    rows = [{"task_index": index, "task": text} for index, text in found.tasks.items()]
    if not found.source.is_v3:
        _write_lines(meta / name, rows)
        return
    write_text_table(meta / name, "task", rows)


def _texts_in(path: Path) -> dict[int, str] | None:
    """Returns the texts of a table of tasks; None if it is damaged."""
    try:
        if path.suffix == ".jsonl":
            return texts_of(file_rows(path), "task")
        return texts_of(text_rows(path, read_table(path), "task"), "task")
    except DataError:
        return None


def _line_of(episode: Candidate, number: int) -> dict[str, Any]:
    """Returns an episode's line of metadata, with its facts and new number."""
    stated = episode.values.get("tasks")
    is_known = isinstance(stated, list) and set(episode.tasks) <= {str(text) for text in stated}
    own = {
        "episode_index": number,
        "tasks": stated if is_known else list(dict.fromkeys(episode.tasks)),
        "length": episode.run.length,
    }
    return {**episode.values, **own}


def _write_episodes_v2(
    builder: _Builder, lines: Sequence[Mapping[str, Any]], with_stats: bool
) -> None:
    meta, root = builder.folder / "meta", builder.found.source.root
    rows = [_line_of(episode, i) for i, episode in enumerate(builder.episodes)]
    _write_lines(meta / "episodes.jsonl", rows)
    builder.sources[meta / "episodes.jsonl"] = root / "meta" / "episodes.jsonl"
    builder.sources[meta / "episodes_stats.jsonl"] = root / "meta" / "episodes_stats.jsonl"
    if with_stats and (root / "meta" / "episodes_stats.jsonl").is_file():
        stats = [
            {**episode.stats, "episode_index": i}
            for i, episode in enumerate(builder.episodes)
            if episode.stats is not None
        ]
        _write_lines(meta / "episodes_stats.jsonl", stats)


def _write_episodes_v3(
    builder: _Builder, lines: Sequence[Mapping[str, Any]], with_stats: bool
) -> None:
    rows = [
        {**_line_of(episode, i), **line}
        for i, (episode, line) in enumerate(zip(builder.episodes, lines, strict=True))
    ]
    names = dict.fromkeys(key for row in rows for key in row)
    columns = {
        name: fact_column([row.get(name) for row in rows])
        for name in names
        if with_stats or not name.startswith("stats/")
    }
    path = builder.folder / WriterV30.episodes_path.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path)
    builder.sources[path] = builder.found.source.root / "meta" / "episodes"


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
