"""How fast, suddenly and jerkily recorded values change: a source of a robot's limits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .statistics import RunningStats

RATES = ("velocity", "acceleration", "jerk")
"""The first, second and third difference, each times the frame rate: as the safety filter of
flux-runtime takes them."""
TAIL = 0.001


class Motion:
    """Collects the sizes of the changes of one feature, in constant memory."""

    def __init__(self, dim: int, num_frames: int, fps: float) -> None:
        self._fps = fps
        self._running = {name: RunningStats(dim, num_frames) for name in RATES}

    def add(self, rows: NDArray[np.float64]) -> None:
        """Adds one episode, (frames, dim); no change leads from one episode to another."""
        for running in self._running.values():
            rows = np.diff(rows, axis=0) * self._fps
            running.add(np.abs(rows))

    def result(self) -> dict[str, dict[str, list[float]]]:
        """Returns 99.9 % and the largest of each rate, per dimension, per second (to the power)."""
        return {
            name: {
                "q999": [float(x) for x in running.upper_quantile(TAIL)],
                "max": list(running.result().max),
            }
            for name, running in self._running.items()
        }
