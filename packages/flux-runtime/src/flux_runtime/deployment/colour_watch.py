"""Whether red and blue are exchanged, as soon as something coloured comes into view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flux_core.pictures import colour_shares, thumbnail

from .cameras import exchanged, is_mostly_one, opposite
from .facts import CameraFacts
from .finding import Finding

FEWEST_IMAGES = 3


class ColourWatch:
    """Compares the shares of red and blue pixels with those of the recordings.

    Only a training set in which one of the two colours is much more common says anything: then the
    other one in its place means that the channels are exchanged.
    """

    def __init__(self, facts: Mapping[str, CameraFacts], accepted: Sequence[str] = ()) -> None:
        """Prepares for the cameras of a bundle."""
        self._facts = {
            name: camera.coloured
            for name, camera in facts.items()
            if camera.coloured is not None and is_mostly_one(camera.coloured)
        }
        self._shares: dict[str, list[tuple[float, float]]] = {name: [] for name in self._facts}
        self._is_over = "camera_colour" in accepted

    @property
    def is_over(self) -> bool:
        """Whether nothing more is judged."""
        return self._is_over or not self._facts

    def add(self, images: Mapping[str, NDArray[np.uint8]]) -> Finding | None:
        """Takes in what the cameras show; returns a suspicion as soon as there is one.

        Args:
            images: camera -> (height, width, 3) uint8.
        """
        if self.is_over:
            return None
        for name, image in images.items():
            if name not in self._facts:
                continue
            self._shares[name].append(colour_shares(thumbnail(image)))
            if finding := self._judge(name):
                self._is_over = True
                return finding
        return None

    def _judge(self, name: str) -> Finding | None:
        seen = self._shares[name]
        if len(seen) < FEWEST_IMAGES:
            return None
        red, blue = np.mean(seen, axis=0).tolist()
        found = opposite((red, blue), self._facts[name])
        return exchanged(name, found) if found else None
