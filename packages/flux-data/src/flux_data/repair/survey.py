"""Finds the episodes of a damaged dataset that may be saved, and says why others cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flux_core.errors import DataError

from ..lerobot.dataset import VideoSegment
from .candidate import Candidate, EpisodesFound
from .found_rows import Found, Lines, rows_v2, rows_v3
from .lines import Line, episode_lines_v2, episode_lines_v3, json_lines, whole_number
from .notes import Notes
from .runs import Run
from .source import DamagedDataset, open_source
from .task_table import known_texts, task_texts_v2, task_texts_v3
from .video_places import segments_of, without_overlaps


def survey(root: Path, notes: Notes) -> EpisodesFound:
    """Reads what can be read of a dataset, without its pictures.

    Raises:
        DataError: `meta/info.json` is missing or unusable, or lists no episode.
    """
    source = open_source(root, notes)
    if source.is_v3:
        lines, texts = episode_lines_v3(root, notes), task_texts_v3(root, notes)
    else:
        lines, texts = episode_lines_v2(root, notes), task_texts_v2(root, notes)
    if not lines:
        path = root / "meta" / ("episodes" if source.is_v3 else "episodes.jsonl")
        raise DataError(f"{path}: expected the episodes' metadata, got none that can be read")
    rows = rows_v3(source, lines, notes) if source.is_v3 else rows_v2(source, lines, notes)
    _note_gaps(source, lines, notes)
    _note_index(rows, notes)
    stats = {} if source.is_v3 else _stats_lines(root, notes)
    episodes = []
    for index, (run, line) in sorted(rows.items()):
        try:
            tasks = known_texts(texts, run, line, notes)
            videos = _videos(source, line, run, notes)
        except DataError as error:
            notes.left_out(line.file, str(error), index)
            continue
        episode = Candidate(
            index=index,
            run=run,
            videos=videos,
            values=line.values,
            tasks=tasks,
            stats=stats.get(index),
        )
        episodes.append(episode)
    if source.is_v3:
        episodes = without_overlaps(episodes, source.fps, notes)
    _note_strangers(source, lines, rows, notes)
    return EpisodesFound(source=source, tasks=texts, episodes=tuple(episodes))


def _videos(source: DamagedDataset, line: Line, run: Run, notes: Notes) -> dict[str, VideoSegment]:
    if source.is_v3:
        return segments_of(source, line, run, notes)
    return {key: VideoSegment(path=source.own_video(key, line.index)) for key in source.video_keys}


def _stats_lines(root: Path, notes: Notes) -> dict[int, Mapping[str, Any]]:
    path = root / "meta" / "episodes_stats.jsonl"
    rows = json_lines(path, notes) if path.is_file() else iter(())
    return {
        index: row for row in rows if (index := whole_number(row.get("episode_index"))) is not None
    }


def _note_gaps(source: DamagedDataset, lines: Lines, notes: Notes) -> None:
    """Notes episodes that are gone: gaps in the numbers, and what info.json counts beyond."""
    meta, info = source.root / "meta", source.info
    for index in sorted(set(range(max(lines))) - set(lines) - notes.episodes_left_out()):
        notes.left_out(meta, "expected its line of metadata, got none", index)
    frames = sum(whole_number(several[0].values.get("length")) or 0 for several in lines.values())
    count, total = whole_number(info.get("total_episodes")), whole_number(info.get("total_frames"))
    # A total that is merely wrong is corrected; both agree after a recorder was killed.
    if count is not None and total is not None and count > max(lines) + 1 and total > frames:
        message = f"expected {count} episodes and {total} frames, found {len(lines)} and {frames}"
        notes.left_out(meta / "info.json", message)


def _note_index(rows: Found, notes: Notes) -> None:
    """Notes rows that do not count on from the episode before, unless others are missing."""
    if notes.episodes_left_out():
        return
    first = 0
    for index, (run, line) in sorted(rows.items()):
        if run.first_index != first:
            got = "others" if run.first_index is None else f"{run.first_index} and so on"
            notes.corrected(run.path, f"index: expected {first} and so on, got {got}", index)
        stated = line.values.get("dataset_from_index", first)
        if stated != first:
            message = f"dataset_from_index: expected {first}, got {stated}"
            notes.corrected(line.file, message, index)
        first += run.length


def _note_strangers(source: DamagedDataset, lines: Lines, rows: Found, notes: Notes) -> None:
    """Notes files that no line of metadata names, whether they exist or not."""
    known = {span.path for run, _ in rows.values() for span in run.spans}
    known |= {Path(note.file) for note in notes}
    for line in (line for several in lines.values() for line in several):
        if source.is_v3:
            videos = [source.named_video(key, line) for key in source.video_keys]
            known |= {path for path in (source.named_data(line), *videos) if path}
        else:
            known |= {source.own_video(key, line.index) for key in source.video_keys}
            known.add(source.own_data(line.index))
    for folder, pattern in (("data", "*.parquet"), ("videos", "*.mp4")):
        for path in sorted((source.root / folder).rglob(pattern)):
            if path not in known:
                notes.left_out(path, "belongs to no episode of the metadata")
