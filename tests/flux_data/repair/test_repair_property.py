"""Random datasets: repair loses nothing of an intact one, and what it saves of any other one is
right: each row keeps its picture, task, values and references.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flux_core.errors import FluxError
from flux_data.repair import repair
from flux_data.validate.rows import validate

from ..coded_commands import difference
from ..coded_dataset import CodedDataset, Row
from ..coded_rows import rows_of
from ..coded_strategies import PLAIN, PLANTS, datasets

NUM_PLAIN, NUM_PLANTED = 12, 3


def saved_rows(dataset: CodedDataset, found: list[Row]) -> list[Row]:
    """Returns what these rows must be, from the numbers that their states hold."""
    sources = {row.state[:2]: row for row in dataset.rows()}
    return [sources[row.state[:2]]._replace(episode=row.episode) for row in found]


def check_repair(data: st.DataObject, plant: str) -> None:
    dataset = data.draw(datasets(plant))
    with tempfile.TemporaryDirectory() as name:
        root, out = dataset.write(Path(name) / "ds"), Path(name) / "out"
        try:
            report = repair(root, out)
        except FluxError as error:
            assert plant != PLAIN and "\n" not in str(error), error
            assert sorted(path.name for path in Path(name).iterdir()) == ["ds"]
            return
        found = rows_of(out)
        assert not difference(saved_rows(dataset, found), found)
        numbers = [int(row.state[0]) for row in found]
        assert numbers == sorted(numbers)
        assert list(dict.fromkeys(numbers)) == report["episodes"]
        assert report["remaining"] or not validate(out)
        is_whole = len(found) == sum(dataset.lengths)
        assert is_whole or report["left_out"] or plant == "dropped rows"
        if plant == PLAIN:
            assert not difference(dataset.rows(), found)
            assert [report["left_out"], report["remaining"]] == [[], []]
            assert not report["corrected"] or validate(root)


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_saved_of_a_random_dataset_is_right(plant: str) -> None:
    @settings(
        max_examples=NUM_PLAIN if plant == PLAIN else NUM_PLANTED,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
        phases=(Phase.generate,),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        check_repair(data, plant)

    check()
