"""Tests with robots behind their real protocols, each in an environment of its own."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def robot_seconds() -> float:
    """How long a robot is driven: FLUX_ROBOT_SECONDS, 10 by default."""
    return float(os.environ.get("FLUX_ROBOT_SECONDS", "10"))
