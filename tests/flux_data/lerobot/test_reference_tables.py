"""Which columns number the texts of which table, and which of a table's columns is the text."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flux_core.errors import DataError
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.reference_tables import reference_tables

from ..coded_commands import check_rows, run, train_or_refuse
from ..coded_dataset import CodedDataset, Column, Reference, plain
from ..small_dataset import edit_column, edit_table

TASKS = ("fold the towel", "open the drawer")
ANNOTATION = "annotation.human.action.task_description"
SUBTASKS = "meta/subtasks.parquet"


def by_pandas(index: str | None, **columns: list[str]) -> pa.Table:
    """A table as pandas writes it, with the texts as its index."""
    name = index or "__index_level_0__"
    metadata = {"index_columns": [name], "column_indexes": [], "pandas_version": "2.2.3"}
    table = pa.table({"task_index": [0, 1], **columns, name: list(TASKS)})
    return table.replace_schema_metadata({"pandas": json.dumps(metadata)})


TABLES: dict[str, pa.Table] = {
    "LeRobot 0.4": by_pandas(None),
    "LeRobot 0.6": by_pandas("task"),
    "another text before pandas' index": by_pandas(None, category=["cloth", "kitchen"]),
    "another text before the column task": by_pandas("task", category=["cloth", "kitchen"]),
    "pandas' index of another name": by_pandas("instruction", category=["cloth", "kitchen"]),
    "another text, and no metadata of pandas": by_pandas(
        None, category=["cloth", "kitchen"]
    ).replace_schema_metadata(None),
    "the text twice": by_pandas(None, task=list(TASKS)),
    "one text of any name": pa.table({"task_index": [0, 1], "words": list(TASKS)}),
    "texts as categories": pa.table(
        {"task_index": [0, 1], "task": pa.array(TASKS).dictionary_encode()}
    ),
    "large texts": pa.table({"task_index": [0, 1], "task": pa.array(TASKS, pa.large_string())}),
}


@pytest.mark.parametrize("which", TABLES)
def test_the_text_of_a_task_is_found_by_name_or_as_the_index_of_pandas(
    which: str, tmp_path: Path
) -> None:
    dataset = plain("v3.0", tasks=TASKS)
    root = dataset.write(tmp_path / "ds")
    pq.write_table(TABLES[which], root / "meta/tasks.parquet")
    assert open_lerobot(root).tasks == dict(enumerate(TASKS))
    assert "fold the towel; open the drawer" in run_info(root)
    trained = train_or_refuse(dataset, root)
    assert not trained.is_refused, trained.error
    assert not run("convert", root, "--to", "v2.1", "--out", tmp_path / "out").is_refused
    check_rows(dataset.rows(), tmp_path / "out")


def run_info(root: Path) -> str:
    from flux_data.info import dataset_info

    return "; ".join(dataset_info(root)["tasks"])


@pytest.mark.parametrize(
    ("table", "got"),
    [
        (pa.table({"task_index": [0, 1], "category": ["a", "b"], "words": ["c", "d"]}), "category"),
        (by_pandas(None, task=["cloth", "kitchen"]), "__index_level_0__, task"),
        (pa.table({"task_index": [0, 1], "number": [5, 6]}), "task_index, number"),
    ],
)
def test_a_table_of_tasks_with_no_or_two_texts_is_refused(
    table: pa.Table, got: str, tmp_path: Path
) -> None:
    root = plain("v3.0", tasks=TASKS).write(tmp_path / "ds")
    pq.write_table(table, root / "meta/tasks.parquet")
    with pytest.raises(DataError, match="expected task_index and the text in one column") as error:
        open_lerobot(root)
    assert got in str(error.value)
    for command in (["info"], ["validate"], ["view", "--out", tmp_path / "page.html"]):
        assert run(command[0], root, *command[1:]).is_refused


def columns_of(dataset: CodedDataset, at: Path) -> dict[str, tuple[str, ...]]:
    return {
        table.name: table.columns for table in reference_tables(open_lerobot(dataset.write(at)))
    }


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_columns_are_known_to_number_the_texts_of_their_tables(
    version: str, tmp_path: Path
) -> None:
    references = (
        Reference(column=ANNOTATION, table="tasks"),
        Reference(),
        Reference(column="category_index", table="categories", text_column="category"),
    )
    dataset = plain(version, references=references)  # type: ignore[arg-type]
    assert columns_of(dataset, tmp_path / "ds") == {
        "task": ("task_index", ANNOTATION),
        "subtask": ("subtask_index",),
        "category": ("category_index",),
    }


def test_modality_json_says_which_annotations_number_tasks(tmp_path: Path) -> None:
    numbers = [
        Column(key=key, dtype="int64", stored="int64")
        for key in ("annotation.rater.score", "annotation.rater.text", "spoken", "camera_index")
    ]
    listed = {"rater.text": {}, "words": {"original_key": "spoken"}}
    dataset = plain(
        columns=tuple(numbers),
        files=(("meta/modality.json", json.dumps({"annotation": listed})),),
    )
    tasks, *others = reference_tables(open_lerobot(dataset.write(tmp_path / "ds")))
    assert tasks.columns == ("task_index", "annotation.rater.text", "spoken")
    assert tasks.maybe == ("annotation.rater.score",)
    assert not others


PLANTED = {
    "an annotation": (
        Reference(column=ANNOTATION, table="tasks"),
        "frame 1: expected a known task",
    ),
    "a subtask": (Reference(), "frame 1: expected a known subtask"),
    "another reference": (
        Reference(column="phase_index", table="phases", text_column="phase"),
        "frame 1: expected a known phase",
    ),
}


@pytest.mark.parametrize("which", PLANTED)
def test_validate_finds_a_number_that_its_table_lacks(which: str, tmp_path: Path) -> None:
    reference, message = PLANTED[which]
    root = plain("v3.0", references=(reference,)).write(tmp_path / "ds")
    assert not run("validate", root).is_refused
    data = "data/chunk-000/file-000.parquet"
    edit_column(data, reference.column, lambda values: [values[0], 77, *values[2:]])(root)
    found = run("validate", root)
    assert found.is_refused and f"{reference.column}: {message}, got 77" in found.error


@pytest.mark.parametrize("change", ["removed", "damaged", "numbers twice"])
def test_validate_finds_a_table_that_is_missing_or_damaged(change: str, tmp_path: Path) -> None:
    root = plain("v3.0", references=(Reference(),)).write(tmp_path / "ds")
    path = root / SUBTASKS
    if change == "removed":
        path.unlink()
    elif change == "damaged":
        path.write_bytes(b"no parquet")
    else:
        edit_table(SUBTASKS, lambda table: pa.concat_tables([table, table]))(root)
    found = run("validate", root)
    assert found.is_refused and str(path) in found.error
    trained = train_or_refuse(plain("v3.0", references=(Reference(),)), root)
    assert not trained.is_refused, trained.error  # which reads no subtasks
