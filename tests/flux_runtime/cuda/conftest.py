"""The fake card, compiled once per run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .fake_card import FakeCard, compile_fake_card


@pytest.fixture(scope="session")
def fake_card_library(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The library that stands in for the driver."""
    return made_once("fake_card", compile_fake_card) / "libfake_card.so"


@pytest.fixture
def card(fake_card_library: Path) -> FakeCard:
    """A fake H200 on which nothing is."""
    return FakeCard(fake_card_library)
