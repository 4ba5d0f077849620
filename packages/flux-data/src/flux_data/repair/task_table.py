"""The texts of tasks in a damaged dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from flux_core.errors import DataError

from ..lerobot.metadata import read_table, text_rows
from .lines import Line, json_lines, whole_number
from .notes import Notes
from .runs import Run

FROM_EPISODES = "texts are taken from the episodes' metadata"


def task_texts_v2(root: Path, notes: Notes) -> dict[int, str]:
    """Returns task_index -> text from the lines of `tasks.jsonl` that can be read."""
    path = root / "meta" / "tasks.jsonl"
    if not path.is_file():
        notes.corrected(path, f"not found: {FROM_EPISODES}")
        return {}
    return _unambiguous(path, json_lines(path, notes), notes)


def task_texts_v3(root: Path, notes: Notes) -> dict[int, str]:
    """Returns task_index -> text from what can be read of `tasks.parquet`."""
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        notes.corrected(path, f"not found: {FROM_EPISODES}")
        return {}
    try:
        rows = text_rows(path, read_table(path), "task")
    except DataError as error:
        notes.corrected(path, f"{str(error).partition(': ')[2]}: {FROM_EPISODES}")
        return {}
    return _unambiguous(path, (row for _, row in rows), notes)


def _unambiguous(path: Path, rows: Iterable[Mapping[str, object]], notes: Notes) -> dict[int, str]:
    """Returns the texts; blank ones and numbers with two texts are noted and left out."""
    texts: dict[int, set[str]] = {}
    for row in rows:
        number, text = whole_number(row.get("task_index")), row.get("task")
        if number is None or not isinstance(text, str) or not text.strip():
            got = f"{row.get('task_index')!r} and {text!r:.40}"
            notes.corrected(path, f"expected a task_index and a text, got {got}")
        else:
            texts.setdefault(number, set()).add(text)
    for index, found in texts.items():
        if len(found) > 1:
            notes.corrected(path, f"task {index}: expected one text, got {sorted(found)}")
    return {index: found.pop() for index, found in texts.items() if len(found) == 1}


def known_texts(texts: dict[int, str], run: Run, line: Line, notes: Notes) -> tuple[str, ...]:
    """Returns the texts of an episode's tasks; the only one unknown may be in its metadata.

    Raises:
        DataError: a task has no text.
    """
    unknown = [index for index in run.tasks if index not in texts]
    if unknown:
        text = _only_other_text(texts, run, line.values) if len(unknown) == 1 else None
        if text is None or unknown[0] < 0:
            raise DataError(f"task_index: expected tasks with a text, got {unknown}")
        message = f"tasks: task {unknown[0]} is {text!r}, as in the episode's metadata"
        notes.corrected(line.file, message, line.index)
        texts[unknown[0]] = text
    return tuple(texts[index] for index in run.tasks)


def _only_other_text(
    texts: Mapping[int, str], run: Run, values: Mapping[str, object]
) -> str | None:
    """Returns the text in an episode's metadata that belongs to no known task of its rows."""
    stated = values.get("tasks")
    if not isinstance(stated, list):
        return None
    known = {texts.get(index) for index in run.tasks}
    others = [text for text in stated if isinstance(text, str) and text.strip()]
    others = [text for text in others if text not in known]
    return others[0] if len(others) == 1 and others[0] not in texts.values() else None
