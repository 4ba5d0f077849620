"""The slider: it reaches its commanded position at once, and keeps a log of what it is sent."""

from __future__ import annotations

import json
import time
from typing import Any

from lerobot.cameras import make_cameras_from_configs
from lerobot.robots import Robot

from .config_slider import SliderConfig


class Slider(Robot):
    """Two axes, in metres and as a share."""

    config_class = SliderConfig
    name = "slider"

    def __init__(self, config: SliderConfig) -> None:
        super().__init__(config)
        self.config = config
        self.cameras = make_cameras_from_configs(config.cameras)
        self._at = {"rail.pos": 0.5, "jaw.pos": 0.5}
        self._log: Any = None

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._at, float)

    @property
    def observation_features(self) -> dict[str, Any]:
        configs = self.config.cameras.items()
        images = {name: (camera.height, camera.width, 3) for name, camera in configs}
        return {**self.action_features, **images}

    @property
    def is_connected(self) -> bool:
        return self._log is not None

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._log = self.config.log.open("w", buffering=1)
        self._write(calibrate=calibrate)
        for camera in self.cameras.values():
            camera.connect()

    def calibrate(self) -> None:
        """There is nothing to calibrate."""

    def configure(self) -> None:
        """There is nothing to configure."""

    def get_observation(self) -> dict[str, Any]:
        images = {name: camera.async_read() for name, camera in self.cameras.items()}
        return {**self._at, **images}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self._write(action=action)
        self._at.update(action)
        return action

    def disconnect(self) -> None:
        self._write(disconnected=True)
        self._log.close()
        self._log = None

    def _write(self, **facts: Any) -> None:
        print(json.dumps({"time_s": time.monotonic(), **facts}), file=self._log)
