"""What all tests of data share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flux_data.video.scheduling import ordinary_scheduling


@pytest.fixture(autouse=True)
def _scheduling() -> Iterator[None]:
    """Tests that encode AV1 by themselves leave no real-time priority to the tests after them."""
    with ordinary_scheduling():
        yield
