"""A camera that draws stripes which move."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from lerobot.cameras import Camera
from numpy.typing import NDArray

from .config_stripes import StripesCameraConfig


class StripesCamera(Camera):
    """Delivers an image per frame period."""

    def __init__(self, config: StripesCameraConfig) -> None:
        super().__init__(config)
        self._is_connected = False
        self._count = 0

    @property
    def is_connected(self) -> bool:
        return self._is_connected

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        return []

    def connect(self, warmup: bool = True) -> None:
        self._is_connected = True

    def read(self, *arguments: Any) -> NDArray[np.uint8]:
        return self.async_read()

    def async_read(self, timeout_ms: float = 200) -> NDArray[np.uint8]:
        time.sleep(1 / self.fps)
        self._count += 1
        rows = (np.arange(self.height) + self._count) // 4 % 2 * 200
        return np.broadcast_to(
            rows[:, None, None].astype(np.uint8), (self.height, self.width, 3)
        ).copy()

    def disconnect(self) -> None:
        self._is_connected = False
