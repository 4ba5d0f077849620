"""Each kernel alone, with the tiles that ship: the problems of the tests, solved in float64."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_runtime.cuda.pi.launches import LaunchBuilder
from flux_runtime.cuda.plan import Pointer
from flux_runtime.cuda.tiles import Tiles

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.flux_runtime.cuda.problems import PROBLEMS, Draft, Problem

TOLERANCE = 4e-3
"""Relative error in bfloat16, as in the tests."""
ALONE = "combine"
"""It takes its grid from the tests' small tiles, so it keeps them."""


class CardDraft(Draft):
    """A problem with the tiles for a card."""

    def __init__(self, arch: str, seed: int) -> None:
        super().__init__("bf16", seed)
        self.arch = arch
        self.is_alone = False

    def tiles(
        self,
        kernel: str,
        rows: int,
        columns: int = 0,
        depth: int = 0,
        weight: Pointer | None = None,
    ) -> Tiles:
        """Those that ship."""
        if self.is_alone:
            return super().tiles(kernel, rows, columns, depth, weight)
        return LaunchBuilder.tiles(self, kernel, rows, columns, depth, weight)


def problems(arch: str, seed: int) -> Mapping[str, Problem]:
    """Returns all problems by name."""
    found = {}
    for name, fill in PROBLEMS.items():
        draft = CardDraft(arch, seed)
        draft.is_alone = name == ALONE
        fill(draft)
        found[name] = draft.problem(name)
    return found


def fault(got: NDArray[np.float32], wanted: NDArray[np.float64]) -> tuple[float, str]:
    """Compares a result, poisoned with NaN before, with the answer.

    Args:
        got: what is in memory.
        wanted: NaN where nothing may be written.

    Returns:
        The relative error, and what else is wrong in a few words ('' if nothing is).
    """
    is_written = ~np.isnan(wanted)
    if not np.array_equal(~np.isnan(got), is_written):
        return float("inf"), "other elements are written than expected"
    if not is_written.any():
        return 0.0, ""
    difference = got[is_written] - wanted[is_written]
    return float(np.linalg.norm(difference) / np.linalg.norm(wanted[is_written])), ""
