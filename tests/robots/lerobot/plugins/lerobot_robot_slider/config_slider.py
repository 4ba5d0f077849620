"""The config of the slider."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lerobot.cameras import CameraConfig
from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("slider")
@dataclass
class SliderConfig(RobotConfig):
    """Where the slider writes down what it is sent, and its cameras."""

    log: Path
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
