"""The texts of tasks in a damaged dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flux_core.errors import DataError

from ..lerobot.metadata import read_table
from .lines import Line, task_texts
from .notes import Notes
from .runs import Run


def task_texts_v3(root: Path, notes: Notes) -> dict[int, str]:
    """Returns task_index -> text from what can be read of `tasks.parquet`."""
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        notes.corrected(path, "not found: texts are taken from the episodes' metadata")
        return {}
    try:
        table = read_table(path)
    except DataError as error:
        message = str(error).partition(": ")[2]
        notes.corrected(path, f"{message}: texts are taken from the episodes' metadata")
        return {}
    names = [name for name in table.schema.names if name != "task_index"]
    if "task_index" not in table.schema.names or not names:
        notes.corrected(path, f"expected task_index and the task's text, got {names}")
        return {}
    indices, texts = table["task_index"].to_pylist(), table[names[0]].to_pylist()
    return task_texts(path, zip(indices, texts, strict=True), notes)


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
