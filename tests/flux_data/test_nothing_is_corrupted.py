"""Random small datasets: every row keeps its picture, task, values and references, or the command
refuses in one line and writes nothing. A dataset without contradictions is never refused.

The slow target tries 5,000 datasets, each run of CI 300, always the same ones.
"""

from __future__ import annotations

import pytest

from .coded_properties import try_datasets
from .coded_strategies import PLAIN, PLANTS

NUM_DATASETS, NUM_SLOW = 300, 5_000
NUM_PARTS = 8
"""Into how many tests the slow ones are divided, so that none takes minutes."""

NUM_PLAIN = 60
"""How many of NUM_DATASETS have no contradiction; the others are divided among the plants."""


def share(plant: str, num_datasets: int) -> int:
    """The number of datasets of a kind."""
    plain = num_datasets * NUM_PLAIN // NUM_DATASETS
    return plain if plant == PLAIN else -(-(num_datasets - plain) // (len(PLANTS) - 1))


@pytest.mark.parametrize("plant", PLANTS)
def test_rows_keep_what_belongs_to_them_or_the_command_refuses(plant: str) -> None:
    try_datasets(plant, share(plant, NUM_DATASETS))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize("plant", PLANTS)
def test_rows_of_many_datasets_keep_what_belongs_to_them(plant: str, part: int) -> None:
    del part
    try_datasets(plant, share(plant, NUM_SLOW // NUM_PARTS), is_random=True)
