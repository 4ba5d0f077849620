"""How far a precision moves a policy's actions on observations of a dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import ExportError

CHECKED_OBSERVATIONS = 8
"""Enough for a mean, and few enough for a full-size network on a processor."""

LARGEST_SHARE = 1.0
"""A precision is refused if it moves actions farther than this many times their spread. Success
is as good up to there and falls beyond (benchmarks/coarse_weights.py)."""


@dataclass(frozen=True, kw_only=True)
class MovedActions:
    """A precision's error beside the randomness that the policy has anyway.

    Attributes:
        observations: number of observations of the dataset.
        moved: root of the mean square by which the precision moves normalised actions.
        spread: standard deviation of the float32 actions between draws of the noise.
    """

    observations: int
    moved: float
    spread: float

    @property
    def share(self) -> float:
        """`moved` in units of `spread`."""
        if self.spread == 0.0:
            return 0.0 if self.moved == 0.0 else float("inf")
        return self.moved / self.spread

    def check(self, precision: str) -> None:
        """Refuses a precision that moves actions farther than chance does.

        Raises:
            ExportError: it names both figures.
        """
        if not self.share <= LARGEST_SHARE:
            raise ExportError(
                f"--precision {precision}: too coarse for this policy: on {self.observations} "
                f"observations of the dataset, expected actions to move by at most "
                f"{LARGEST_SHARE * self.spread:.3g}, as far as another draw of the noise moves "
                f"them, got {self.moved:.3g}. Choose another --precision."
            )


def moved_actions(
    expected: Sequence[NDArray[np.generic]],
    redrawn: Sequence[NDArray[np.generic]],
    own: Sequence[NDArray[np.generic]],
) -> MovedActions:
    """Compares the actions, (1, H, A) each, of the same observations.

    Args:
        expected: in float32.
        redrawn: in float32, from another draw of the noise.
        own: in the bundle's precision, from the noise of `expected`.
    """
    return MovedActions(
        observations=len(expected),
        moved=_rms(own, expected),
        # The difference of two draws has twice the variance of one.
        spread=_rms(redrawn, expected) / math.sqrt(2.0),
    )


def _rms(one: Sequence[NDArray[np.generic]], other: Sequence[NDArray[np.generic]]) -> float:
    first, second = (np.stack(actions).astype(np.float64) for actions in (one, other))
    return float(np.sqrt(np.mean(np.square(first - second))))
