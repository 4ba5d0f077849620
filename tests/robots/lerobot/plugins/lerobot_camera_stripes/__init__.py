"""A camera of a plugin."""

from .config_stripes import StripesCameraConfig
from .stripes import StripesCamera

__all__ = ["StripesCamera", "StripesCameraConfig"]
