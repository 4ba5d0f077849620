"""What FFmpeg's names of pixel formats say."""

from __future__ import annotations

import re

DEEP_GREY = re.compile(r"gray(9|1\d|f)|ya(16|f)")
"""One channel of more than 8 bits, which only depth maps have."""


def is_deep_grey(pixel_format: object) -> bool:
    """Whether a pixel format is grey with more than 8 bits."""
    return isinstance(pixel_format, str) and DEEP_GREY.match(pixel_format) is not None
