"""Pairs the lines of metadata with the rows of their episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flux_core.errors import DataError

from .lines import Line
from .notes import Notes
from .runs import Run, keep_the_order, runs_of
from .source import DamagedDataset

Lines = Mapping[int, Sequence[Line]]
Found = dict[int, tuple[Run, Line]]


def rows_v2(source: DamagedDataset, lines: Lines, notes: Notes) -> Found:
    """Returns the rows and the line of each episode that has a file of its own."""
    found: Found = {}
    for index in sorted(lines):
        path = source.own_data(index)
        try:
            runs = runs_of(path, source.fps)
            if len(runs) != 1:
                got = "none" if not runs else f"those of {[run.states for run in runs[:5]]}"
                raise DataError(f"{path}: expected rows of one episode, got {got}")
            found[index] = runs[0], _chosen(index, lines[index], runs[0], notes)
        except DataError as error:
            notes.left_out(*parted(error), index)
    _check_stated(source, found, notes)
    return found


def _check_stated(source: DamagedDataset, found: Found, notes: Notes) -> None:
    """Leaves out rows that state another episode, unless removed episodes explain it."""
    in_order = keep_the_order(list(found), [run.states for run, _ in found.values()])
    for index, run in [(i, run) for i, (run, _) in found.items() if run.states != i]:
        message = f"episode_index: expected {index}, got {run.states}"
        # If a video of the stated number is there, the videos kept their numbers.
        others = [] if run.states in found else source.video_keys
        has_video = any(source.own_video(key, run.states).is_file() for key in others)
        if in_order and not has_video:
            notes.corrected(run.path, message, index)
        else:
            notes.left_out(run.path, f"{message}, and nothing tells which is right", index)
            del found[index]


def rows_v3(source: DamagedDataset, lines: Lines, notes: Notes) -> Found:
    """Returns the rows and the line of each episode, wherever in the data files its rows are."""
    runs, unreadable = list[Run](), dict[Path, str]()
    for path in sorted((source.root / "data").rglob("*.parquet")):
        try:
            _join(runs, runs_of(path, source.fps))
        except DataError as error:
            unreadable[path] = parted(error)[1]
    listed = sorted(lines)
    if _only_renumbered(source, lines, runs):
        pairs = dict(zip(listed, runs, strict=True))
    else:
        of_episode: dict[int, list[Run]] = {}
        for run in runs:
            of_episode.setdefault(run.states, []).append(run)
        pairs = {
            i: run
            for i in listed
            if (run := _own_run(source, i, of_episode.get(i, []), lines[i], notes))
        }
    told = notes.episodes_left_out()
    for index in (index for index in listed if index not in pairs):
        if index not in told:
            notes.left_out(*_why_no_rows(source, lines[index][0], unreadable), index)
    found: Found = {}
    for index, run in pairs.items():
        if run.states != index:
            message = f"episode_index: expected {index}, got {run.states}"
            notes.corrected(run.path, message, index)
        try:
            found[index] = run, _chosen(index, lines[index], run, notes)
            _note_place(source, found[index][1], run, notes)
        except DataError as error:
            notes.left_out(*parted(error), index)
    _note_other_rows(runs, pairs, lines, notes)
    return found


def _join(runs: list[Run], following: Sequence[Run]) -> None:
    """Appends the runs of the next file; one that goes on with the last episode is joined to it."""
    if runs and following and runs[-1].states == following[0].states:
        joined = runs[-1].followed_by(following[0])
        if joined.order == "right":
            runs[-1], following = joined, following[1:]
    runs += following


def _only_renumbered(source: DamagedDataset, lines: Lines, runs: Sequence[Run]) -> bool:
    """Whether metadata and rows agree on everything but numbers that removed episodes left."""
    listed, states = sorted(lines), [run.states for run in runs]
    return (
        len(runs) == len(listed) == source.info.get("total_episodes")
        and listed == list(range(len(listed)))
        and states != listed
        and keep_the_order(listed, states)
        and all(
            any(line.values.get("length") == run.length for line in lines[index])
            for index, run in zip(listed, runs, strict=True)
        )
    )


def _own_run(
    source: DamagedDataset, index: int, own: Sequence[Run], lines: Sequence[Line], notes: Notes
) -> Run | None:
    """Returns the episode's run; of several, the only one where the metadata says it is."""
    if len(own) < 2:
        return own[0] if own else None
    stated = [
        run
        for run in own
        if any(
            source.named_data(line) == run.path and line.values.get("length") == run.length
            for line in lines
        )
    ]
    if len(stated) == 1:
        return stated[0]
    places = ", ".join(f"row {run.first} of {run.path.name}" for run in own[:4])
    notes.left_out(own[0].path, f"expected its rows in one place, got {places}", index)
    return None


def _why_no_rows(
    source: DamagedDataset, line: Line, unreadable: Mapping[Path, str]
) -> tuple[Path, str]:
    path = source.named_data(line)
    if path is None:
        return source.root / "data", "found no rows of the episode"
    if path in unreadable:
        return path, unreadable[path]
    missing = not path.is_file()
    return path, "the parquet file is missing" if missing else "found no rows of the episode"


def _note_place(source: DamagedDataset, line: Line, run: Run, notes: Notes) -> None:
    """Notes that the metadata names another file than that of the rows."""
    stated = source.named_data(line)
    if stated != run.path:
        message = f"data/file_index: expected that of {run.path.name}, got {stated}"
        notes.corrected(line.file, message, line.index)


def _note_other_rows(
    runs: Sequence[Run], pairs: Mapping[int, Run], lines: Lines, notes: Notes
) -> None:
    """Notes rows of episodes that the metadata does not list, and rows that are there twice."""
    taken = set(pairs.values())
    for run in (run for run in runs if run not in taken):
        rows = f"{run.length} rows from row {run.first} on"
        if run.states not in lines:
            message = f"{rows}: no line of metadata lists the episode"
            notes.left_out(run.path, message, None if run.states < 0 else run.states)
        elif run.states in pairs:
            message = f"{rows}: the episode's rows are in {pairs[run.states].path}"
            notes.left_out(run.path, message, run.states)


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
    if run.order == "stale":
        notes.corrected(run.path, "frame_index: expected 0, 1, 2 and so on, as the times", index)
    if run.order == "shuffled":
        notes.corrected(run.path, "frame_index: expected ascending rows: sorted", index)
    return line


def parted(error: DataError) -> tuple[str, str]:
    """Returns the file and the message of an error."""
    file, _, message = str(error).partition(": ")
    return file, message
