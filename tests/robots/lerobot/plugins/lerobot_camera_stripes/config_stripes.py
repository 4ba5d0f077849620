"""The config of the camera."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.cameras import CameraConfig


@CameraConfig.register_subclass("stripes")
@dataclass
class StripesCameraConfig(CameraConfig):
    """A camera that needs no device."""
