"""Cameras for drivers that get their images neither from ROS nor from a library of the robot's.

Needs numpy. OpenCV, `pyrealsense2` and PyAV are imported only when a camera that needs them is
opened.
"""

from .cameras import Cameras, open_cameras
from .source import CameraError

__all__ = ["CameraError", "Cameras", "open_cameras"]
