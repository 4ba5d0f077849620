"""Watches a robot's first episode: what its joints do, and what colours come into view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec

from .colour_watch import ColourWatch
from .facts import DeploymentFacts
from .finding import Finding
from .motion_watch import MotionWatch
from .wrist_watch import WristWatch

SLOW_START_S, SLOW_START_SPEED = 1.0, 0.25
"""How a real robot begins the first episode of a run, so that a fault is seen before it is fast."""

Images = Mapping[str, NDArray[np.uint8]]


class FirstMotions:
    """Finds what cannot be seen at rest.

    Attributes:
        suspicion: for which the robot was stopped; None as long as there is none.
    """

    def __init__(
        self, facts: DeploymentFacts, spec: RobotSpec, accepted: Sequence[str] = ()
    ) -> None:
        """Prepares for one episode; suspicions in `accepted` are not raised."""
        self.suspicion: Finding | None = None
        self._spec, self._accepted = spec, accepted
        self._facts = facts
        self._motion = MotionWatch(spec, accepted)
        self._wrists = WristWatch(spec, facts.cameras, accepted)
        self._colour = ColourWatch(facts.cameras, accepted)

    def begin(self) -> None:
        """Begins again after a pause, in which somebody may have moved the robot."""
        self._motion = MotionWatch(self._spec, self._accepted)
        self._wrists = WristWatch(self._spec, self._facts.cameras, self._accepted)

    def add(self, rows: NDArray[np.void], images: Sequence[Images] = ()) -> Finding | None:
        """Takes in the next ticks in real time, and what the policy saw meanwhile.

        Returns:
            A suspicion for which the robot must be stopped; only once.
        """
        if self.suspicion is not None:
            return None
        found = self._motion.add(rows["timestamp_s"], rows["command"], rows["state"])
        self._wrists.add_states(rows["state"])
        for seen in images:
            found = found or self._colour.add(seen) or self._wrists.add_images(seen)
        self.suspicion = found
        return found
