"""A robot of a plugin: a slider and a gripper that have no motor bus of LeRobot's."""

from .config_slider import SliderConfig
from .slider import Slider

__all__ = ["Slider", "SliderConfig"]
