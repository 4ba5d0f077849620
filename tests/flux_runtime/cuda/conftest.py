"""The fake card and the kernels that are shipped, each compiled once per run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flux_runtime.cuda.architectures import ARCHITECTURES
from flux_runtime.cuda.cubins.build import build
from flux_runtime.cuda.cubins.shipped import shipped

from .fake_card import FakeCard, compile_fake_card


@pytest.fixture(scope="session")
def fake_card_library(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The library that stands in for the driver."""
    return made_once("fake_card", compile_fake_card) / "libfake_card.so"


@pytest.fixture
def card(fake_card_library: Path) -> FakeCard:
    """A fake H200 on which nothing is."""
    return FakeCard(fake_card_library)


@pytest.fixture(scope="session")
def shipped_kernels(
    made_once: Callable[[str, Callable[[Path], object]], Path],
) -> Callable[[str], Path]:
    """Returns the folder of the stores of an architecture, with everything that is shipped."""

    def compiled(arch: str) -> Path:
        target = ARCHITECTURES[arch]
        wanted = [(target, shipped(target))]
        return made_once(f"shipped_{arch}", lambda root: build(wanted, root, num_processes=1))

    return compiled
