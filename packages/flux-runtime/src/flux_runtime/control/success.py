"""Success within an episode, and the confidence interval of a success rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

Z_95 = 1.959963984540054
STRICT_HOLD_TICKS = 25


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Returns the Wilson score interval of a success rate (Wilson 1927), 95% by default.

    Args:
        successes: from 0 to `trials`.
        trials: at least 1.
        z: quantile of the normal distribution.

    Returns:
        (low, high), both within [0, 1].
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials >= 1, got {successes}, {trials}")
    rate = successes / trials
    scale = 1 / (1 + z * z / trials)
    center = (rate + z * z / (2 * trials)) * scale
    half = z * scale * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == trials else center + half
    return low, high


class SuccessWatch:
    """Follows the stages of one episode.

    Success means that `success_stage` has been reached, even if only once. Strict success also
    requires that `end_state` has held for the last `hold_ticks` ticks, so that a cube that is
    handed over and then dropped does not count.
    """

    def __init__(
        self, *, success_stage: str, end_state: str, hold_ticks: int = STRICT_HOLD_TICKS
    ) -> None:
        self._success_stage = success_stage
        self._end_state = end_state
        self._hold_ticks = hold_ticks
        self._held_ticks = 0
        self.stages: dict[str, bool] = {}

    def update(self, stages: Mapping[str, bool]) -> None:
        """Records the stages after one tick."""
        self.stages = dict(stages)
        self._held_ticks = self._held_ticks + 1 if self.success and stages[self._end_state] else 0

    @property
    def success(self) -> bool:
        """Whether the task has been done at any time."""
        return self.stages.get(self._success_stage, False)

    @property
    def strict_success(self) -> bool:
        """Whether the task has been done and its end state has held for `hold_ticks` ticks."""
        return self._held_ticks >= self._hold_ticks
