"""Finds the episodes of a damaged dataset that may be saved, and says why others cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_core.errors import DataError

from ..lerobot.dataset import LAYOUTS, LeRobotV2, LeRobotV3, VideoSegment
from ..lerobot.metadata import check_info, read_info
from ..lerobot.writer import CHUNKS_SIZE, WRITERS
from .candidate import Candidate, Survey
from .lines import (
    Line,
    episode_lines_v2,
    episode_lines_v3,
    json_lines,
    task_texts_v2,
    whole_number,
)
from .notes import Notes
from .runs import Run, keep_the_order, runs_of
from .task_table import known_texts, task_texts_v3
from .video_places import segments_of, video_file, without_overlaps


def survey(root: Path, notes: Notes) -> Survey:
    """Reads what can be read of a dataset, without its pictures.

    Raises:
        DataError: `meta/info.json` is missing or unusable, or no episode can be saved.
    """
    info = _usable_info(root, notes)
    is_v3 = info["codebase_version"] == "v3.0"
    lines = episode_lines_v3(root, notes) if is_v3 else episode_lines_v2(root, notes)
    if not lines:
        where = "meta/episodes" if is_v3 else "meta/episodes.jsonl"
        raise DataError(f"{root / where}: expected lines of episodes that can be read, got none")
    texts = task_texts_v3(root, notes) if is_v3 else task_texts_v2(root, notes)
    rows = _rows_v3(root, info, lines, notes) if is_v3 else _rows_v2(root, info, lines, notes)
    stats = {} if is_v3 else _stats_lines(root, notes)
    _note_gaps(root, info, lines, notes)
    episodes = []
    for index, (run, line) in sorted(rows.items()):
        try:
            tasks = known_texts(texts, run, line, notes)
            videos = _videos(root, info, line, run, notes)
        except DataError as error:
            notes.left_out(line.file, str(error), index)
            continue
        episodes.append(
            Candidate(
                index=index,
                run=run,
                videos=videos,
                values=line.values,
                tasks=tasks,
                stats=stats.get(index),
            )
        )
    if is_v3:
        episodes = without_overlaps(episodes, float(info["fps"]), notes)
    _note_strangers(root, _known_files(root, info, lines), notes)
    return Survey(root=root, info=info, tasks=texts, episodes=tuple(episodes))


def _usable_info(root: Path, notes: Notes) -> dict[str, Any]:
    """Returns info.json; paths that are missing become LeRobot's own."""
    path, info = root / "meta" / "info.json", read_info(root)
    version = info.get("codebase_version")
    layout = next((layout for layout in LAYOUTS if version in layout.versions), None)
    if layout is None:
        known = ", ".join(version for layout in LAYOUTS for version in layout.versions)
        raise DataError(f"{path}: expected codebase_version {known}, got {version}")
    writer = WRITERS["v3.0" if layout is LeRobotV3 else "v2.1"]
    usual = {"data_path": writer.data_path, "video_path": writer.video_path}
    if layout is LeRobotV2:
        usual["chunks_size"] = CHUNKS_SIZE
    for key, value in usual.items():
        try:
            check_info(
                path, {**info, **{k: v for k, v in usual.items() if k != key}}, layout.places
            )
        except DataError as error:
            if f": {key}: " not in str(error) and f"{key!r}" not in str(error):
                raise
            notes.corrected(path, f"{key}: expected LeRobot's {value!r}, got {info.get(key)!r}")
            info[key] = value
    check_info(path, info, layout.places)
    return info


def _rows_v2(
    root: Path, info: Mapping[str, Any], lines: Mapping[int, Sequence[Line]], notes: Notes
) -> dict[int, tuple[Run, Line]]:
    """Returns the rows and the line of each episode that has a file of its own."""
    found: dict[int, tuple[Run, Line]] = {}
    for index in sorted(lines):
        path = _place(root, info, "data_path", index)
        try:
            runs = runs_of(path)
            if len(runs) != 1:
                got = "none" if not runs else f"those of {[run.states for run in runs[:5]]}"
                raise DataError(f"{path}: expected rows of one episode, got {got}")
            found[index] = runs[0], _chosen(index, lines[index], runs[0], notes)
        except DataError as error:
            notes.left_out(*_parted(error), index)
    stale = {i: run.states for i, (run, _) in found.items() if run.states != i}
    states = [run.states for run, _ in found.values()]
    in_order = keep_the_order(list(found), states)
    for index, state in stale.items():
        run, message = found[index][0], f"episode_index: expected {index}, got {state}"
        others = [_place(root, info, "video_path", state, key) for key in _video_keys(info)]
        if in_order and not (state not in found and any(path.is_file() for path in others)):
            notes.corrected(run.path, message, index)
        else:
            notes.left_out(run.path, f"{message}: nothing tells which is right", index)
            del found[index]
    return found


def _rows_v3(
    root: Path, info: Mapping[str, Any], lines: Mapping[int, Sequence[Line]], notes: Notes
) -> dict[int, tuple[Run, Line]]:
    """Returns the rows and the line of each episode, wherever in the data files its rows are."""
    runs, unreadable = [], dict[Path, str]()
    for path in sorted((root / "data").rglob("*.parquet")):
        try:
            runs += runs_of(path)
        except DataError as error:
            unreadable[path] = str(error).partition(": ")[2]
    listed = sorted(lines)
    if _only_renumbered(info, listed, lines, runs):
        pairs = dict(zip(listed, runs, strict=True))
    else:
        pairs = {i: run for i in listed if (run := _only_run(i, runs, lines[i], notes))}
    found: dict[int, tuple[Run, Line]] = {}
    for index in listed:
        if index not in pairs:
            if not any(run.states == index for run in runs):
                path = _named_file(root, info, lines[index][0])
                reason = "the parquet file is missing" if path and not path.is_file() else None
                message = unreadable.get(path) if path else None
                text = message or reason or "found no rows of the episode"
                notes.left_out(path or root / "data", text, index)
            continue
        run = pairs[index]
        if run.states != index:
            message = f"episode_index: expected {index}, got {run.states}"
            notes.corrected(run.path, message, index)
        try:
            found[index] = run, _chosen(index, lines[index], run, notes)
        except DataError as error:
            notes.left_out(*_parted(error), index)
    taken = set(pairs.values())
    for run in (run for run in runs if run not in taken and run.states not in lines):
        message = f"{run.length} rows from row {run.first} on: no line of metadata lists them"
        notes.left_out(run.path, message, max(run.states, 0))
    return found


def _only_renumbered(
    info: Mapping[str, Any],
    listed: Sequence[int],
    lines: Mapping[int, Sequence[Line]],
    runs: Sequence[Run],
) -> bool:
    """Whether metadata and rows agree on everything but numbers that removed episodes left."""
    states = [run.states for run in runs]
    return (
        len(runs) == len(listed) == info.get("total_episodes")
        and list(listed) == list(range(len(listed)))
        and states != list(listed)
        and keep_the_order(listed, states)
        and all(
            any(line.values.get("length") == run.length for line in lines[index])
            for index, run in zip(listed, runs, strict=True)
        )
    )


def _only_run(index: int, runs: Sequence[Run], lines: Sequence[Line], notes: Notes) -> Run | None:
    """Returns the episode's only run; of several, the only one of the stated length."""
    own = [run for run in runs if run.states == index]
    if len(own) > 1:
        lengths = {line.values.get("length") for line in lines}
        fitting = [run for run in own if run.length in lengths]
        if len(fitting) == 1:
            return fitting[0]
        places = ", ".join(f"row {run.first} of {run.path.name}" for run in own[:4])
        message = f"expected its rows in one place, got {places}"
        notes.left_out(own[0].path, message, index)
        return None
    return own[0] if own else None


def _chosen(index: int, lines: Sequence[Line], run: Run, notes: Notes) -> Line:
    """Returns the line that fits the rows best, and notes what of it is wrong.

    Raises:
        DataError: two lines that fit the rows contradict each other.
    """
    fitting = [line for line in lines if line.values.get("length") == run.length] or lines
    different: list[Line] = []
    for line in fitting:
        if all(line.values != other.values for other in different):
            different.append(line)
    if len(different) > 1:
        raise DataError(f"{fitting[1].file}: expected one line for the episode, got two")
    if len(lines) > 1:
        message = f"expected each episode once, got {index} {len(lines)} times"
        notes.corrected(lines[1].file, message, index)
    line, length = different[0], different[0].values.get("length")
    if line.values and length != run.length:
        message = f"length: expected {run.length} (its rows), got {length}"
        notes.corrected(line.file, message, index)
    if not run.frames_ascend:
        notes.corrected(run.path, "frame_index: numbered again", index)
    return line


def _videos(
    root: Path, info: Mapping[str, Any], line: Line, run: Run, notes: Notes
) -> dict[str, VideoSegment]:
    keys = _video_keys(info)
    if info["codebase_version"] == "v3.0":
        return segments_of(root, info, keys, line, run, notes)
    return {
        key: VideoSegment(path=_place(root, info, "video_path", line.index, key)) for key in keys
    }


def _video_keys(info: Mapping[str, Any]) -> list[str]:
    return [key for key, feature in info["features"].items() if feature["dtype"] == "video"]


def _place(root: Path, info: Mapping[str, Any], template: str, index: int, key: str = "") -> Path:
    """Returns the file of an episode in v2.x."""
    chunk = index // info["chunks_size"]
    return root / info[template].format(episode_chunk=chunk, episode_index=index, video_key=key)


def _named_file(root: Path, info: Mapping[str, Any], line: Line) -> Path | None:
    """Returns the data file that a line of v3.0 names; None if it names none."""
    chunk, file = (whole_number(line.values.get(f"data/{k}_index")) for k in ("chunk", "file"))
    if chunk is None or file is None:
        return None
    return root / info["data_path"].format(chunk_index=chunk, file_index=file)


def _stats_lines(root: Path, notes: Notes) -> dict[int, Mapping[str, Any]]:
    path = root / "meta" / "episodes_stats.jsonl"
    rows = json_lines(path, notes) if path.is_file() else iter(())
    return {
        index: row for row in rows if (index := whole_number(row.get("episode_index"))) is not None
    }


def _note_gaps(
    root: Path, info: Mapping[str, Any], lines: Mapping[int, Sequence[Line]], notes: Notes
) -> None:
    """Notes episodes that are gone: gaps in the numbers, and what info.json counts beyond."""
    for index in sorted(set(range(max(lines))) - set(lines) - notes.episodes_left_out()):
        notes.left_out(root / "meta", "expected its line of metadata, got none", index)
    frames = sum(whole_number(several[0].values.get("length")) or 0 for several in lines.values())
    count, total = whole_number(info.get("total_episodes")), whole_number(info.get("total_frames"))
    # A total that is merely wrong is corrected; both agree after a recorder was killed.
    if count is not None and total is not None and count > max(lines) + 1 and total > frames:
        message = f"expected {count} episodes and {total} frames, found {len(lines)} and {frames}"
        notes.left_out(root / "meta" / "info.json", message)


def _known_files(
    root: Path, info: Mapping[str, Any], lines: Mapping[int, Sequence[Line]]
) -> set[Path]:
    """Returns the files that lines of metadata name, whether they exist or not."""
    keys = _video_keys(info)
    if info["codebase_version"] != "v3.0":
        videos = {_place(root, info, "video_path", index, key) for index in lines for key in keys}
        return videos | {_place(root, info, "data_path", index) for index in lines}
    known: set[Path] = set()
    for line in (line for several in lines.values() for line in several):
        path = _named_file(root, info, line)
        known |= {path} if path else set()
        known |= {video for key in keys if (video := video_file(root, info, key, line.values))}
    # A readable table in another place was searched for rows of the episodes.
    return known | {path for path in (root / "data").rglob("*.parquet") if _is_readable(path)}


def _is_readable(path: Path) -> bool:
    try:
        runs_of(path)
    except DataError:
        return False
    return True


def _note_strangers(root: Path, known: set[Path], notes: Notes) -> None:
    for folder, pattern in (("data", "*.parquet"), ("videos", "*.mp4")):
        for path in sorted((root / folder).rglob(pattern)):
            if path not in known:
                notes.left_out(path, "belongs to no episode of the metadata")


def _parted(error: DataError) -> tuple[str, str]:
    """Returns the file and the message of an error."""
    file, _, message = str(error).partition(": ")
    return file, message
