"""How well a policy did: success within an episode, and a success rate with its uncertainty."""

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

    Success is the sticky stage `success_stage`. Strict success asks that `end_state` hold for
    the last `hold_ticks` ticks, so that a cube that is handed over and dropped does not count.
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
        """Takes the stages after one tick."""
        self.stages = dict(stages)
        self._held_ticks = self._held_ticks + 1 if self.success and stages[self._end_state] else 0

    @property
    def success(self) -> bool:
        """Whether the task was done at any time."""
        return self.stages.get(self._success_stage, False)

    @property
    def strict_success(self) -> bool:
        """Whether the task was done and its end state has held long enough to end the episode."""
        return self._held_ticks >= self._hold_ticks
