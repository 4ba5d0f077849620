"""The spline between the rows of a chunk, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from flux_runtime import _core


def _executed(rows: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions in a chunk and what is executed there."""
    player = _core.ChunkPlayer(action_dim=rows.shape[1], max_rows=len(rows))
    player.begin(rows, 0)
    executed = []
    while player.has_row:
        executed.append(player.look(rate))
        player.advance(rate)
    return rate * np.arange(len(executed)), np.array(executed)


@pytest.mark.parametrize("num_rows", [3, 4, 17, 50])
@pytest.mark.parametrize("rate", [0.25, 0.3, 1 / 3])
def test_between_rows_the_motion_is_scipys_natural_cubic_spline(num_rows: int, rate: float) -> None:
    rows = np.random.default_rng(num_rows).normal(size=(num_rows, 3)).astype(np.float32)
    positions, executed = _executed(rows, rate)
    spline = CubicSpline(np.arange(num_rows), rows.astype(float), bc_type="natural")
    assert len(executed) == int((num_rows - 1) / rate + 1e-9) + 1
    np.testing.assert_allclose(executed, spline(positions), rtol=0, atol=1e-6)


def test_at_one_row_per_tick_the_rows_are_executed_to_the_bit() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    _, executed = _executed(rows, 1.0)
    np.testing.assert_array_equal(executed, rows)


def test_a_chunk_whose_first_row_is_not_reached_is_refused() -> None:
    player = _core.ChunkPlayer(action_dim=1, max_rows=4)
    player.begin(np.zeros((4, 1), np.float32), 0)
    player.advance(0.5)
    with pytest.raises(ValueError, match="first_row: expected one that has been reached, got 1"):
        player.begin(np.zeros((4, 1), np.float32), player.next_row)
    with pytest.raises(ValueError, match="rate: expected 0 to 1"):
        player.advance(1.5)
    with pytest.raises(ValueError, match="rows: expected float32"):
        player.begin(np.zeros((5, 1), np.float32), 0)
